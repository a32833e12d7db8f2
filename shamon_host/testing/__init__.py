"""In-memory backends, contract suites and the scenario player."""
