"""The claims of an Attestation Result, one module for each family of them. `appraisal` puts them together."""
