"""The CPU profile: OpenVINO runs every engine, and a language model of its own the tokens."""

from pathlib import Path
from typing import Any, cast

from build_engines import codec, speech_lm
from build_engines.artifacts import versions
from build_engines.checkpoint import Checkpoint
from build_engines.checks import Check
from build_engines.profiles import CODEC_MODELS, CORE, SOURCES, EngineName
from build_engines.qwen2_graph import Precision
from tritone.openvino_engine import Precision as CodecPrecision


class Profile:
    """Implements `profiles.Profile`.

    int8 and bf16 are the language model's; the vocoder's second half is bf16 with both. f32 is everything in float32,
    for parity.
    """

    config_file = "config.pbtxt"

    def __init__(self, precision: str) -> None:
        self._precision = cast(Precision, precision)

    def parameters(self, served_from: Path) -> dict[str, dict[str, str]]:
        parameters: dict[str, dict[str, str]] = {"speech_lm": {"precision": self._precision}}
        for name in CODEC_MODELS:
            parameters[name] = {"precision": self._codec_precision(name)}
        return parameters

    def input_sizes(self, checkpoint: Checkpoint) -> dict[str, dict[str, int]]:
        return {}

    def made_from(self, name: EngineName) -> dict[str, Any]:
        return {
            "precision": self._precision if name == "speech_lm" else "f32",
            "versions": versions("openvino", "openvino-genai", "torch", "onnx"),
        }

    def sources(self, name: EngineName) -> list[Path]:
        if name == "speech_lm":
            own = [SOURCES / file for file in ("speech_lm.py", "qwen2_graph.py", "qwen2_reference.py")]
            used = ("vocabulary.py", "speech_lm.py", "spark_tts/tokens.py", "spark_tts/prompts.py")
            return [*own, *(CORE / file for file in used)]
        own = [SOURCES / file for file in ("codec.py", "cpu_rewrites.py", "networks")]
        vocoder = [CORE / "spark_tts" / "vocoder.py"] if name == "vocoder" else []
        return [*own, CORE / "engines.py", CORE / "openvino_engine.py", *vocoder]

    def build(self, checkpoint: Checkpoint, name: EngineName, directory: Path, cache_dir: Path) -> dict[str, Any]:
        if name == "speech_lm":
            speech_lm.build_openvino_lm(checkpoint, directory, self._precision)
        else:
            codec.build_engine(checkpoint, name, directory)
        return {}

    def verify(self, checkpoint: Checkpoint, name: EngineName, directory: Path) -> list[Check]:
        if name == "speech_lm":
            return speech_lm.verify_lm(checkpoint, directory, self._precision)
        return codec.verify_engine(checkpoint, name, directory, self._codec_precision(name))

    def _codec_precision(self, name: EngineName) -> CodecPrecision:
        # the encoders run once per voice, and a flipped token changes it
        return "bf16" if name == "vocoder" and self._precision != "f32" else "f32"
