"""The published way of running the language model, as a machine's yardstick: `transformers`, one request at a time."""

import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def published_lm_tokens_per_s(checkpoint_dir: Path, prompt: list[int], num_new_tokens: int) -> float:
    """Tokens per second while one stream decodes, in bfloat16, greedy, after `prompt`.

    Args:
        checkpoint_dir: a checkpoint in Spark-TTS's layout.
    """
    model = AutoModelForCausalLM.from_pretrained(checkpoint_dir / "LLM", dtype=torch.bfloat16).eval()
    with torch.inference_mode():
        answer = model(torch.from_numpy(np.array([prompt])), use_cache=True, logits_to_keep=1)
        begin = time.perf_counter()
        for _ in range(num_new_tokens):
            next_id = answer.logits[:, -1:].argmax(-1)
            answer = model(next_id, past_key_values=answer.past_key_values, use_cache=True)
        return num_new_tokens / (time.perf_counter() - begin)
