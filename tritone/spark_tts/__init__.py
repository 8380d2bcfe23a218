"""What is true of Spark-TTS alone: its tokens, its prompts, its pipeline."""
