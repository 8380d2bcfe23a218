"""The LM's TensorRT-LLM engine: built by `trtllm-build`, with settings for a small model that speaks, and checked.

Building and checking need a GPU and TensorRT-LLM, as they are in Triton's image; everything up to the command does not.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from build_engines.checkpoint import Checkpoint
from build_engines.checks import Check
from build_engines.qwen2_reference import Qwen2Reference, head_dim
from build_engines.trtllm import Precision, write_lm_checkpoint
from tritone.spark_tts.prompts import Prompts, Style

# The last release that builds engines, the one in Triton's image. An engine is served by the release that built it.
TRTLLM_VERSION = "1.2.1"
BUILD_PROGRAM = "trtllm-build"
BUILD_LOG = "trtllm-build.log"
ENGINE_FILE = "rank0.engine"
_NUM_LOG_LINES_IN_ERROR = 20

# By how much a greedily chosen token may lie behind the reference's best one, over the logits' spread: rounding makes
# two that are close change places. Measured in NumPy with the tiny and the demo checkpoint's weights in bf16: 0, in
# int8 with a scale per channel: 0.05; activations, rounded too on a GPU, add to that. With a wrong rotary base it was
# 0.6 and 5.7, with gate and up exchanged 3.1 and 4.8.
MAX_GREEDY_GAP: dict[Precision, float] = {"bf16": 0.2, "int8": 0.4}
NUM_VERIFIED_TOKENS = 40
VERIFIED_TEXT = "hello world"


class TrtllmError(Exception):
    """TensorRT-LLM is missing, is another release or failed: one sentence, then the end of its log where it has one."""


@dataclass(frozen=True)
class EngineSettings:
    """What the engine can do at a time. Figures are those of the published size: 24 layers, 166,000 ids.

    Attributes:
        max_batch_size: sequences that are decoded together; further requests wait. A step of the 0.5B model takes as
            long as reading its 1 GB of weights, whatever the number of sequences, so 64 listeners cost little more
            than one. Not TensorRT-LLM's 2048: logits and embedding bias take 1.3 MB of every place, so that its 2.7 GB
            would lie idle.
        max_num_tokens: of one step: a token of each running sequence, and pieces of prompts. Bounds how long a long
            prompt holds up the running ones; the usual prompt of a few hundred tokens is read in a single step.
        max_input_len: of a prompt. A reference of 30 s has 1500 tokens, its voice 32, and a thousand are left for its
            transcript and for a segment of 15 s. More than max_num_tokens, which asks for prompts in pieces:
            `enable_chunked_context` in the model's config.
        max_seq_len: of prompt and answer. The slowest speech that can be asked for may take 9600 tokens for a segment
            of 15 s before the pipeline calls it a run-on. It costs a table of block numbers alone; what a request
            takes of the cache follows from its own prompt and budget.
        tokens_per_block: of the paged cache for keys and values. Small, since what is used again is short: the
            prompt of a controlled voice from one phase to the next, and a prompt that is tried with another seed.
        kv_cache_tokens: in the cache, of all sequences together: 64 of 4096, which is a long reference's prompt and
            its answer. 3.2 GB (see `kv_cache_bytes`), not nine tenths of the GPU: the codec needs room, too. (The
            published recipe's 2560 tokens hold two to four requests.)
    """

    max_batch_size: int = 64
    max_num_tokens: int = 2048
    max_input_len: int = 2560
    max_seq_len: int = 12_288
    tokens_per_block: int = 32
    kv_cache_tokens: int = 64 * 4096


def kv_cache_bytes(lm: Mapping[str, Any], num_tokens: int) -> int:
    """The GPU memory that keys and values of so many tokens take in bfloat16: 12 KiB each in the published size."""
    keys_and_values, bf16_bytes = 2, 2
    return (
        num_tokens * keys_and_values * lm["num_hidden_layers"] * lm["num_key_value_heads"] * head_dim(lm) * bf16_bytes
    )


def build_command(checkpoint_dir: Path, engine_dir: Path, timing_cache: Path, settings: EngineSettings) -> list[str]:
    """The command that makes an engine of a TensorRT-LLM checkpoint."""
    options: dict[str, object] = {
        "checkpoint_dir": checkpoint_dir,
        "output_dir": engine_dir,
        "max_batch_size": settings.max_batch_size,
        "max_num_tokens": settings.max_num_tokens,
        "max_input_len": settings.max_input_len,
        "max_seq_len": settings.max_seq_len,
        "max_beam_width": 1,  # speech is sampled
        "gpt_attention_plugin": "bfloat16",
        "gemm_plugin": "bfloat16",
        "remove_input_padding": "enable",  # what in-flight batching needs
        "kv_cache_type": "paged",
        "tokens_per_block": settings.tokens_per_block,
        "context_fmha": "enable",
        "use_paged_context_fmha": "enable",  # what using blocks again and reading prompts in pieces need
        "input_timing_cache": timing_cache,
        "output_timing_cache": timing_cache,  # by default a file in the working directory, which may be read-only
        "workers": 1,
    }
    return [BUILD_PROGRAM, *(part for name, value in options.items() for part in (f"--{name}", str(value)))]


def build_trtllm_engine(
    checkpoint: Checkpoint,
    output_dir: Path,
    precision: Precision,
    timing_cache: Path,
    settings: EngineSettings | None = None,
) -> None:
    """Fill a folder with what TensorRT-LLM's backend serves: `config.json` and `rank0.engine`, and the build's log.

    Args:
        timing_cache: what earlier builds on this GPU measured; read where it exists, and written.

    Raises:
        CheckpointError: the LM cannot be converted.
        TrtllmError: `trtllm-build` is missing, is another release than TRTLLM_VERSION, or failed.
    """
    require_trtllm_build()
    checkpoint_dir = output_dir / "checkpoint"  # as large as the model, and of no use afterwards
    try:
        write_lm_checkpoint(checkpoint, checkpoint_dir, precision)
        command = build_command(checkpoint_dir, output_dir, timing_cache, settings or EngineSettings())
        _run(command, output_dir / BUILD_LOG)
    finally:
        shutil.rmtree(checkpoint_dir, ignore_errors=True)
    if not (output_dir / ENGINE_FILE).is_file():
        raise TrtllmError(f"{BUILD_PROGRAM} reported success but wrote no {ENGINE_FILE}")


def require_trtllm_build() -> None:
    """Raise TrtllmError unless `trtllm-build` is there, runs, and is of the release that this project is made for."""
    if shutil.which(BUILD_PROGRAM) is None:
        raise TrtllmError(
            f"{BUILD_PROGRAM} is missing: build the gpu profile in Triton's image with TensorRT-LLM {TRTLLM_VERSION}, "
            "on a machine with a GPU"
        )
    # the release is printed whenever TensorRT-LLM is loaded
    asked = subprocess.run([BUILD_PROGRAM, "--help"], capture_output=True, text=True)
    found = re.search(r"TensorRT.LLM version: (\S+)", asked.stdout + asked.stderr)
    if asked.returncode or found is None:
        raise TrtllmError(f"{BUILD_PROGRAM} does not run:\n{_last_lines(asked.stdout + asked.stderr)}")
    if found[1] != TRTLLM_VERSION:
        raise TrtllmError(
            f"{BUILD_PROGRAM} is of TensorRT-LLM {found[1]}, not of {TRTLLM_VERSION}: use the image's own"
        )


def verify_trtllm_engine(checkpoint: Checkpoint, engine_dir: Path, precision: Precision) -> list[Check]:
    """Let the engine choose speech greedily, then hold each choice to the reference's logits at that place.

    Raises:
        TrtllmError: there is no engine, or TensorRT-LLM cannot run it.
    """
    if not (engine_dir / ENGINE_FILE).is_file():
        raise TrtllmError(f"{engine_dir / ENGINE_FILE} is missing: build the repository first")
    prompts = Prompts(checkpoint.tokenizer_path)
    tokens = prompts.tokens
    prompt = prompts.controlled(VERIFIED_TEXT, Style(gender=0, pitch=2, speed=2))
    prompt += [tokens.pitch_values[250], tokens.speed_values[4], tokens.end_acoustic, tokens.start_global]
    prompt += [*tokens.global_tokens[:32], tokens.end_global, tokens.start_semantic]
    ids = _greedy_ids(engine_dir, prompt, tokens.semantic_tokens, checkpoint.lm["vocab_size"])
    reference = Qwen2Reference(checkpoint.lm, checkpoint.lm_file)
    return greedy_checks(reference, prompt, ids, tokens.semantic_tokens, precision)


def greedy_checks(
    reference: Qwen2Reference, prompt: list[int], ids: list[int], allowed: range, precision: Precision
) -> list[Check]:
    """Whether `ids` are what a greedy engine of this precision may have said after `prompt`, bound to `allowed`."""
    num_forbidden = sum(token_id not in allowed for token_id in ids)
    kept = [token_id for token_id in ids if token_id in allowed]
    logits = reference.logits([*prompt, *ids], slice(len(prompt) - 1, -1))[:, allowed.start : allowed.stop]
    places = [place for place, token_id in enumerate(ids) if token_id in allowed]
    chosen = logits[places, np.array(kept, int) - allowed.start]
    gap = np.max(logits[places].max(axis=1) - chosen, initial=0.0) / logits.std()
    return [
        Check.at_least("tokens that the engine made", len(ids), "tokens", NUM_VERIFIED_TOKENS),
        Check.at_most("tokens outside the embedding bias", num_forbidden, "tokens", 0),
        Check.at_most("chosen token behind the best one", float(gap), "of the spread", MAX_GREEDY_GAP[precision]),
    ]


def _greedy_ids(engine_dir: Path, prompt: list[int], allowed: range, vocab_size: int) -> list[int]:
    """What the engine says, in a process of its own: it loads MPI, and keeps the GPU's memory until it ends."""
    request = {
        "engine_dir": str(engine_dir),
        "prompt": prompt,
        "num_tokens": NUM_VERIFIED_TOKENS,
        "allowed": [allowed.start, allowed.stop],
        "vocab_size": vocab_size,
    }
    command = [sys.executable, "-m", "build_engines.trtllm_greedy"]
    asked = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True)
    if asked.returncode:
        raise TrtllmError(f"TensorRT-LLM cannot run {engine_dir}:\n{_last_lines(asked.stderr or asked.stdout)}")
    return json.loads(asked.stdout.splitlines()[-1])  # TensorRT-LLM's own messages come before it


def _run(command: list[str], log_path: Path) -> None:
    with log_path.open("w") as log:  # not on standard output, where the caller prints its result
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if status:
        raise TrtllmError(
            f"{BUILD_PROGRAM} failed with status {status}; the end of its log:\n{_last_lines(log_path.read_text())}"
        )


def _last_lines(text: str) -> str:
    return "\n".join(text.splitlines()[-_NUM_LOG_LINES_IN_ERROR:])
