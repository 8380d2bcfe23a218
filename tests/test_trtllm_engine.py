"""Building the TensorRT-LLM engine: the command, its limits, its errors, and the check of what an engine says."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from build_engines.checkpoint import Checkpoint, TensorFile
from build_engines.checks import CheckFailed, require
from build_engines.qwen2_reference import Qwen2Reference
from build_engines.synthetic import SIZES, lm_config
from build_engines.trtllm_engine import (
    NUM_VERIFIED_TOKENS,
    TRTLLM_VERSION,
    EngineSettings,
    TrtllmError,
    build_command,
    build_trtllm_engine,
    greedy_checks,
    kv_cache_bytes,
    require_trtllm_build,
    verify_trtllm_engine,
)
from tritone.run_on import token_budget
from tritone.spark_tts.pipeline import PipelineSettings
from tritone.spark_tts.request import Limits
from tritone.spark_tts.tokens import SpeechTokens
from tritone.text import split_text

TOKENS_PER_S = 50


def test_the_command_says_every_limit_and_what_streaming_needs() -> None:
    settings = EngineSettings(4, 300, 200, 900, 64, 5000)
    program, *options = build_command(Path("in"), Path("out"), Path("cache"), settings)
    assert program == "trtllm-build"
    assert dict(zip(options[::2], options[1::2], strict=True)) == {
        "--checkpoint_dir": "in",
        "--output_dir": "out",
        "--max_batch_size": "4",
        "--max_num_tokens": "300",
        "--max_input_len": "200",
        "--max_seq_len": "900",
        "--max_beam_width": "1",
        "--gpt_attention_plugin": "bfloat16",
        "--gemm_plugin": "bfloat16",
        "--remove_input_padding": "enable",
        "--kv_cache_type": "paged",
        "--tokens_per_block": "64",
        "--context_fmha": "enable",
        "--use_paged_context_fmha": "enable",
        "--input_timing_cache": "cache",
        "--output_timing_cache": "cache",
        "--workers": "1",
    }


def test_every_request_of_the_pipeline_fits() -> None:
    """With its own limits: the longest reference, and the slowest speech of the longest segment."""
    settings = EngineSettings()
    text = "the man in the old house by the river said good morning to all of us and " * 40
    segments = split_text(text, PipelineSettings().max_segment_s)
    longest_answer = max(token_budget(segment.text, TOKENS_PER_S, syllables_per_s=0) for segment in segments)
    reference_tokens = int(Limits().max_reference_s * TOKENS_PER_S)
    assert reference_tokens + 32 + 1000 <= settings.max_input_len
    assert longest_answer > 6000
    assert settings.max_input_len + longest_answer <= settings.max_seq_len


def test_a_step_holds_a_token_of_every_sequence_and_part_of_a_prompt() -> None:
    settings = EngineSettings()
    assert settings.max_num_tokens >= 8 * settings.max_batch_size
    assert settings.max_num_tokens <= settings.max_input_len + settings.max_batch_size


def test_the_cache_of_the_published_size_takes_as_much_as_is_said() -> None:
    lm = lm_config(SIZES["full"])
    assert kv_cache_bytes(lm, 1) == 12 * 1024
    assert round(kv_cache_bytes(lm, EngineSettings().kv_cache_tokens) / 1e9, 1) == 3.2


def stand_in(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of trtllm-build's name, first on PATH."""
    program = directory / "trtllm-build"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")


PRINTS_VERSION = f'echo "[TensorRT-LLM] TensorRT LLM version: {TRTLLM_VERSION}"'


def test_a_missing_program_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TrtllmError, match=r"trtllm-build is missing: .* image .*1\.2\.1.* GPU"):
        require_trtllm_build()


def test_another_release_is_refused_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, 'echo "[TensorRT-LLM] TensorRT-LLM version: 0.19.0"', monkeypatch)
    with pytest.raises(TrtllmError, match=r"0\.19\.0, not of 1\.2\.1"):
        require_trtllm_build()


def test_a_program_that_does_not_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, 'echo "libcuda.so.1: cannot open shared object file" >&2; exit 1', monkeypatch)
    with pytest.raises(TrtllmError, match="does not run:\nlibcuda"):
        require_trtllm_build()


def test_a_failed_build_shows_the_end_of_its_log_and_leaves_no_checkpoint(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, f'{PRINTS_VERSION}\n[ "$1" = --help ] || {{ echo "out of memory"; exit 3; }}', monkeypatch)
    engine = tmp_path / "engine"
    engine.mkdir()
    with pytest.raises(TrtllmError, match=r"(?s)status 3; the end of its log:.*out of memory"):
        build_trtllm_engine(Checkpoint.open(tiny_checkpoint), engine, "bf16", tmp_path / "cache")
    assert [path.name for path in engine.iterdir()] == ["trtllm-build.log"]


def test_the_program_gets_the_converted_checkpoint(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in takes the file of weights that it is given for an engine."""
    copies = 'cp "$2"/rank0.safetensors "$4"/rank0.engine; cp "$2"/config.json "$4"'
    script = f'{PRINTS_VERSION}\n[ "$1" = --help ] || {{ {copies}; }}'
    stand_in(tmp_path, script, monkeypatch)
    engine = tmp_path / "engine"
    engine.mkdir()
    checkpoint = Checkpoint.open(tiny_checkpoint)
    build_trtllm_engine(checkpoint, engine, "int8", tmp_path / "cache")
    assert sorted(path.name for path in engine.iterdir()) == ["config.json", "rank0.engine", "trtllm-build.log"]
    assert '"quant_algo": "W8A16"' in (engine / "config.json").read_text()
    bf16_bytes = 2 * checkpoint.lm["vocab_size"] * checkpoint.lm["hidden_size"]
    assert (engine / "rank0.engine").stat().st_size > 2 * bf16_bytes  # embedding and head


def test_success_without_an_engine_is_an_error(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, PRINTS_VERSION, monkeypatch)
    (tmp_path / "engine").mkdir()
    with pytest.raises(TrtllmError, match=r"wrote no rank0\.engine"):
        build_trtllm_engine(Checkpoint.open(tiny_checkpoint), tmp_path / "engine", "bf16", tmp_path / "cache")


def test_where_engine_or_tensorrt_llm_is_missing_the_check_says_so(tmp_path: Path, tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    with pytest.raises(TrtllmError, match=r"rank0\.engine is missing: build"):
        verify_trtllm_engine(checkpoint, tmp_path, "bf16")
    (tmp_path / "rank0.engine").touch()
    with pytest.raises(TrtllmError, match=r"cannot run .*:\nTensorRT-LLM is not installed: .*'tensorrt_llm'"):
        verify_trtllm_engine(checkpoint, tmp_path, "bf16")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.fixture(scope="module")
def semantic(checkpoint: Checkpoint) -> range:
    return SpeechTokens.from_file(checkpoint.tokenizer_path).semantic_tokens


def failed(checkpoint: Checkpoint, clone_prompt: list[int], ids: list[int], semantic: range) -> str:
    reference = Qwen2Reference(checkpoint.lm, checkpoint.lm_file)
    try:
        require(greedy_checks(reference, clone_prompt, ids, semantic, "bf16"))
    except CheckFailed as error:
        return str(error)
    return ""


def test_what_the_reference_says_passes(
    checkpoint: Checkpoint, clone_prompt: list[int], greedy_ids: list[int], semantic: range
) -> None:
    assert failed(checkpoint, clone_prompt, greedy_ids, semantic) == ""


def test_what_has_nothing_to_do_with_the_weights_fails(
    checkpoint: Checkpoint, clone_prompt: list[int], semantic: range
) -> None:
    ids = np.random.default_rng(0).integers(semantic.start, semantic.stop, NUM_VERIFIED_TOKENS).tolist()
    assert "chosen token behind the best one: 6" in failed(checkpoint, clone_prompt, ids, semantic)


def test_gate_and_up_exchanged_fail(
    checkpoint: Checkpoint, clone_prompt: list[int], semantic: range, tmp_path: Path
) -> None:
    """The mistake that names invite: TensorRT-LLM's `gate` is not the checkpoint's."""
    exchanged = {"gate_proj": "up_proj", "up_proj": "gate_proj"}
    weights = {
        re.sub("gate_proj|up_proj", lambda match: exchanged[match[0]], name): tensor
        for name, tensor in load_file(checkpoint.lm_file.path).items()
    }
    save_file(weights, tmp_path / "exchanged.safetensors")
    wrong = Qwen2Reference(checkpoint.lm, TensorFile(tmp_path / "exchanged.safetensors"))
    ids = wrong.greedy(clone_prompt, NUM_VERIFIED_TOKENS, semantic)
    assert "chosen token behind the best one" in failed(checkpoint, clone_prompt, ids, semantic)


def test_a_bias_that_was_ignored_fails(
    checkpoint: Checkpoint, clone_prompt: list[int], greedy_ids: list[int], semantic: range
) -> None:
    ids = [*greedy_ids[:20], semantic.stop, *greedy_ids[21:]]
    assert "outside the embedding bias: 1 tokens" in failed(checkpoint, clone_prompt, ids, semantic)


def test_an_engine_that_stops_early_fails(
    checkpoint: Checkpoint, clone_prompt: list[int], greedy_ids: list[int], semantic: range
) -> None:
    assert "tokens that the engine made: 39" in failed(checkpoint, clone_prompt, greedy_ids[:-1], semantic)
