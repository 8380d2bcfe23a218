"""The published way of running Spark-TTS, as a yardstick: `transformers` and PyTorch, one request at a time."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer

from build_engines.checkpoint import Checkpoint
from build_engines.networks.vocoder import Vocoder

LmPrecision = Literal["fp32", "bf16"]
LM_DTYPES: dict[LmPrecision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
SAMPLING = {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.95}
NUM_WARM_UP_TOKENS = 4


@dataclass(frozen=True)
class PublishedRequest:
    """One utterance, spoken the published way."""

    lm_precision: LmPrecision  # the vocoder is in fp32 with both
    lm_s: float  # prefill and all tokens
    vocoder_s: float  # the whole utterance at once
    audio_s: float

    @property
    def rtf(self) -> float:
        """Waiting over audio."""
        return (self.lm_s + self.vocoder_s) / self.audio_s


def speak_as_published(
    checkpoint: Checkpoint, prompt: list[int], global_tokens: np.ndarray, num_new_tokens: int, lm_precision: LmPrecision
) -> PublishedRequest:
    """Generate exactly `num_new_tokens` after `prompt`, with the published sampling, and decode them.

    Weights of no meaning also emit tokens that are no semantic ones. Each stands for one then, so that the vocoder has
    the same to do.

    Args:
        global_tokens: the voice, INT32 [32].
    """
    model = AutoModelForCausalLM.from_pretrained(checkpoint.directory / "LLM", dtype=LM_DTYPES[lm_precision]).eval()
    vocoder = Vocoder.from_checkpoint(checkpoint)
    num_semantic_codes = checkpoint.bicodec["quantizer"]["codebook_size"]
    voice = torch.from_numpy(global_tokens[np.newaxis])
    input_ids = torch.tensor([prompt])

    def generate(num_tokens: int, streamer: BaseStreamer | None = None) -> torch.Tensor:
        ids = model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            pad_token_id=model.config.eos_token_id,
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
            streamer=streamer,
            **SAMPLING,
        )
        return ids[:, len(prompt) :] % num_semantic_codes

    torch.manual_seed(0)
    with torch.inference_mode(), tqdm(total=num_new_tokens, desc=f"published, {lm_precision}", unit="token") as bar:
        vocoder(voice, generate(NUM_WARM_UP_TOKENS))
        begin_s = time.perf_counter()
        semantic_tokens = generate(num_new_tokens, _Progress(bar))
        generated_at_s = time.perf_counter()
        waveform = vocoder(voice, semantic_tokens)
        decoded_at_s = time.perf_counter()
    return PublishedRequest(
        lm_precision,
        lm_s=generated_at_s - begin_s,
        vocoder_s=decoded_at_s - generated_at_s,
        audio_s=waveform.shape[1] / checkpoint.sample_rate_hz,
    )


class _Progress(BaseStreamer):
    """Counts tokens on a progress bar."""

    def __init__(self, bar: tqdm) -> None:
        self._bar = bar

    def put(self, value: torch.Tensor) -> None:
        if value.ndim == 1:  # the prompt comes first, [1, n]
            self._bar.update()

    def end(self) -> None:
        pass


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
