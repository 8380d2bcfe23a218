"""A ready Triton model repository: the committed models with the engines of one checkpoint."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from google.protobuf import text_format
from tqdm import tqdm
from tritonclient.grpc.model_config_pb2 import ModelConfig

from build_engines import checks, codec, speech_lm
from build_engines.artifacts import build_artifact, source_hash, versions
from build_engines.checkpoint import Checkpoint
from build_engines.networks.vocoder import receptive_field_tokens
from build_engines.networks.wave_generator import wave_generator_field_tokens
from tritone.spark_tts.facts import ModelFacts
from tritone.spark_tts.tokens import SpeechTokens

PROJECT_DIR = Path(__file__).resolve().parent.parent
MODEL_REPO_DIR = PROJECT_DIR / "model_repo"
BUILD_DIR = PROJECT_DIR / "build"
SOURCES = PROJECT_DIR / "build_engines"
CORE = PROJECT_DIR / "tritone"

# int8 and bf16 are the language model's; the vocoder is bf16 with both. f32 is everything in float32, for parity.
Precision = Literal["int8", "bf16", "f32"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
EngineName = Literal["speech_lm"] | codec.ModelName
CODEC_MODELS: tuple[codec.ModelName, ...] = get_args(codec.ModelName)
ENGINES: tuple[EngineName, ...] = ("speech_lm", *CODEC_MODELS)
PIPELINE_MODELS = ("spark_tts", "spark_tts_stream")


def repository_dir(checkpoint_dir: Path, precision: Precision) -> Path:
    """Where the CPU repository of a checkpoint lies."""
    return BUILD_DIR / "cpu" / f"{checkpoint_dir.resolve().name}-{precision}"


def build_repository(checkpoint_dir: Path, output_dir: Path, precision: Precision = "int8") -> Path:
    """Build the CPU model repository of a checkpoint; what is finished already is not built again.

    Every engine is compared with its reference before it is published.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        checks.CheckFailed: an engine differs too much from its reference; names the figure.
    """
    checkpoint = Checkpoint.open(checkpoint_dir)
    facts = model_facts(checkpoint)
    copy_models(output_dir, {name: _engine_settings(name, precision) for name in ENGINES})
    for name in (*PIPELINE_MODELS, *CODEC_MODELS):
        facts.save(output_dir / name / "1")
    for name in PIPELINE_MODELS:
        shutil.copyfile(checkpoint.tokenizer_path, output_dir / name / "1" / "tokenizer.json")

    fingerprint = checkpoint.fingerprint()
    with tqdm(ENGINES, desc=f"engines of {checkpoint_dir.name}", unit="engine") as names:
        for name in names:
            names.set_postfix_str(name)
            build, sources = _builder(checkpoint, name, precision)
            made_from = {
                "checkpoint": fingerprint,
                "precision": precision if name == "speech_lm" else "f32",
                "versions": versions("openvino", "openvino-genai", "torch", "onnx"),
                "sources": source_hash(*sources),
            }
            build_artifact(output_dir / name / "1" / "engine", made_from, build)
    return output_dir


def verify_repository(checkpoint_dir: Path, repository: Path, precision: Precision) -> list[checks.Check]:
    """Compare every engine of a built repository with its reference, at several shapes."""
    checkpoint = Checkpoint.open(checkpoint_dir)
    results: list[checks.Check] = []
    for name in tqdm(ENGINES, desc=f"verify {checkpoint_dir.name}", unit="engine"):
        results += _verify_engine(checkpoint, name, precision, repository / name / "1" / "engine")
    return results


def model_facts(checkpoint: Checkpoint) -> ModelFacts:
    """What the server needs to know of a checkpoint."""
    tokens = SpeechTokens.from_file(checkpoint.tokenizer_path)
    return ModelFacts(
        sample_rate_hz=checkpoint.sample_rate_hz,
        samples_per_token=checkpoint.hop_length,
        num_reference_samples=checkpoint.num_reference_samples,
        normalize_volume=checkpoint.volume_normalize,
        num_global_codes=len(tokens.global_tokens),
        num_semantic_codes=len(tokens.semantic_tokens),
        receptive_field_tokens=receptive_field_tokens(checkpoint.bicodec),
        wave_field_tokens=wave_generator_field_tokens(checkpoint.bicodec["decoder"]),
    )


def copy_models(output_dir: Path, settings: Mapping[str, Mapping[str, str]]) -> None:
    """Copy the committed models, with some parameters of their configs set.

    Raises:
        KeyError: a parameter to set is not in the committed config.
    """
    for source in sorted(path for path in MODEL_REPO_DIR.iterdir() if path.is_dir()):
        config = text_format.Parse((source / "config.pbtxt").read_text(), ModelConfig())
        for key, value in settings.get(source.name, {}).items():
            if key not in config.parameters:
                raise KeyError(f"{source.name} has no parameter {key}")
            config.parameters[key].string_value = value
        (output_dir / source.name / "1").mkdir(parents=True, exist_ok=True)
        (output_dir / source.name / "config.pbtxt").write_text(config_text(config))
        shutil.copyfile(source / "1" / "model.py", output_dir / source.name / "1" / "model.py")


def config_text(config: ModelConfig) -> str:
    """A config.pbtxt. What protobuf leaves out as a default, `max_batch_size: 0`, Triton would otherwise complete."""
    text = text_format.MessageToString(config)
    return text if config.max_batch_size else f"max_batch_size: 0\n{text}"


def _engine_settings(name: EngineName, precision: Precision) -> dict[str, str]:
    if name == "speech_lm":
        return {"precision": precision}
    return {"precision": _codec_precision(name, precision)}


def _codec_precision(name: EngineName, precision: Precision) -> codec.Precision:
    # the encoders run once per voice, and a flipped token changes it
    return "bf16" if name == "vocoder" and precision != "f32" else "f32"


def _builder(
    checkpoint: Checkpoint, name: EngineName, precision: Precision
) -> tuple[Callable[[Path], Mapping[str, Any]], list[Path]]:
    """How engine `name` is built and checked in an empty folder, and the sources that decide how it comes out."""

    def build(directory: Path) -> dict[str, Any]:
        if name == "speech_lm":
            speech_lm.build_openvino_lm(checkpoint, directory, precision)
        else:
            codec.build_engine(checkpoint, name, directory)
        results = _verify_engine(checkpoint, name, precision, directory)
        checks.require(results)
        return {"checks": [str(result) for result in results]}

    if name == "speech_lm":
        own = [SOURCES / name for name in ("speech_lm.py", "qwen2_graph.py", "qwen2_reference.py")]
        used = ("vocabulary.py", "speech_lm.py", "spark_tts/tokens.py", "spark_tts/prompts.py")
        return build, [*own, *(CORE / name for name in used)]
    own = [SOURCES / name for name in ("codec.py", "cpu_rewrites.py", "networks")]
    return build, [*own, CORE / "engines.py", *([CORE / "spark_tts/vocoder.py"] if name == "vocoder" else [])]


def _verify_engine(
    checkpoint: Checkpoint, name: EngineName, precision: Precision, directory: Path
) -> list[checks.Check]:
    if name == "speech_lm":
        return speech_lm.verify_lm(checkpoint, directory, precision)
    return codec.verify_engine(checkpoint, name, directory, _codec_precision(name, precision))
