"""Import rules of this project that the import linter does not bring itself."""
