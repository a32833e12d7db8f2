"""Fuzzing of every parser that reads a stranger's bytes: `make fuzz`, and in small in the unit suite."""
