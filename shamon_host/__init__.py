"""Shamon: one mandatory access control policy over the virtual machines of many hosts."""

__version__ = "0.1.0"
