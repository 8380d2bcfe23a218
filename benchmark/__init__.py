"""Measurements of a running Tritone server."""
