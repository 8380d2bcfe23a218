"""Spark-TTS's codec networks in PyTorch, each file one block of the published diagrams."""
