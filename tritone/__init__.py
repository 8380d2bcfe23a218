"""Tritone's importable core: what the models of the Triton repository share."""
