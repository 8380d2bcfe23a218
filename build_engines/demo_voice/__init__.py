"""Training of the demo voice: a small checkpoint in Spark-TTS's layout that speaks like espeak-ng."""
