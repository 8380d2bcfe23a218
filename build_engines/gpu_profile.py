"""The GPU profile: TensorRT-LLM speaks the tokens, TensorRT runs the codec. Needs both, and a GPU: Triton's image."""

import dataclasses
from pathlib import Path
from typing import Any, cast

from build_engines import tensorrt_plans
from build_engines.checkpoint import Checkpoint
from build_engines.checks import Check
from build_engines.profiles import CORE, SOURCES, EngineName
from build_engines.trtllm import Precision
from build_engines.trtllm_engine import (
    TRTLLM_VERSION,
    EngineSettings,
    build_trtllm_engine,
    kv_cache_bytes,
    verify_trtllm_engine,
)
from tritone.tensorrt_engine import this_platform


class Profile:
    """Implements `profiles.Profile`. The precision is the language model's; the codec's is in its plans."""

    config_file = "configs/gpu.pbtxt"

    def __init__(self, precision: str) -> None:
        self._precision = cast(Precision, precision)
        self._settings = EngineSettings()

    def parameters(self, served_from: Path) -> dict[str, dict[str, str]]:
        speech_lm = {
            "gpt_model_path": str(served_from.resolve() / "speech_lm" / "1" / "engine"),
            "max_tokens_in_paged_kv_cache": str(self._settings.kv_cache_tokens),
        }
        return {"speech_lm": speech_lm}

    def input_sizes(self, checkpoint: Checkpoint) -> dict[str, dict[str, int]]:
        return {"speech_lm": {"embedding_bias": checkpoint.lm["vocab_size"]}}

    def made_from(self, name: EngineName) -> dict[str, Any]:
        platform = dataclasses.asdict(this_platform())
        if name != "speech_lm":
            return {"platform": platform}
        return {
            "precision": self._precision,
            "settings": dataclasses.asdict(self._settings),
            "versions": {"tensorrt_llm": TRTLLM_VERSION},
            "platform": platform,
        }

    def sources(self, name: EngineName) -> list[Path]:
        if name == "speech_lm":
            return [SOURCES / file for file in ("trtllm.py", "trtllm_engine.py", "trtllm_greedy.py")]
        own = [SOURCES / file for file in ("codec.py", "tensorrt_plans.py", "onnx_precision.py", "networks")]
        vocoder = [CORE / "spark_tts" / "vocoder.py"] if name == "vocoder" else []
        return [*own, CORE / "engines.py", CORE / "tensorrt_engine.py", *vocoder]

    def build(self, checkpoint: Checkpoint, name: EngineName, directory: Path, cache_dir: Path) -> dict[str, Any]:
        if name == "speech_lm":
            cache = cache_dir / "trtllm-timing.cache"
            build_trtllm_engine(checkpoint, directory, self._precision, cache, self._settings)
            return {"kv_cache_bytes": kv_cache_bytes(checkpoint.lm, self._settings.kv_cache_tokens)}
        tensorrt_plans.build_plans(checkpoint, name, directory, cache_dir / "timing.cache")
        return {}

    def verify(self, checkpoint: Checkpoint, name: EngineName, directory: Path) -> list[Check]:
        if name == "speech_lm":
            return verify_trtllm_engine(checkpoint, directory, self._precision)
        return tensorrt_plans.verify_plans(checkpoint, name, directory)
