"""Stands in for the link agent in an image of the MAC VM that is built for a test."""
