"""The `shamon` command."""
