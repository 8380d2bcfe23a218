"""A ready Triton model repository: the committed models with the engines of one checkpoint."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tqdm import tqdm
from tritonclient.grpc.model_config_pb2 import ModelConfig

from build_engines import checks
from build_engines.artifacts import build_artifact, source_hash
from build_engines.checkpoint import Checkpoint
from build_engines.networks.vocoder import receptive_field_tokens
from build_engines.networks.wave_generator import wave_generator_field_tokens
from build_engines.profiles import (
    CODEC_MODELS,
    ENGINES,
    PROJECT_DIR,
    EngineName,
    Profile,
    ProfileName,
    open_profile,
)
from tritone.spark_tts.facts import ModelFacts
from tritone.spark_tts.tokens import SpeechTokens

MODEL_REPO_DIR = PROJECT_DIR / "model_repo"
BUILD_DIR = PROJECT_DIR / "build"

PIPELINE_MODELS = ("spark_tts", "spark_tts_stream")


def repository_dir(checkpoint_dir: Path, precision: str, profile: ProfileName = "cpu") -> Path:
    """Where the repository of a checkpoint lies unless it is built elsewhere."""
    return BUILD_DIR / profile / f"{checkpoint_dir.resolve().name}-{precision}"


def build_repository(
    checkpoint_dir: Path,
    output_dir: Path,
    precision: str = "int8",
    profile: ProfileName = "cpu",
    served_from: Path | None = None,
) -> Path:
    """Build the model repository of a checkpoint; what is finished already is not built again.

    Every engine is compared with its reference before it is published.

    Args:
        precision: of the language model, one of `profiles.PRECISIONS`.
        served_from: the folder that the repository will be served from, if it is moved afterwards.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        checks.CheckFailed: an engine differs too much from its reference; names the figure.
        TrtllmError, TensorRtError: what the gpu profile needs is missing or failed.
    """
    checkpoint = Checkpoint.open(checkpoint_dir)
    facts = model_facts(checkpoint)
    opened = open_profile(profile, precision)
    fingerprint = checkpoint.fingerprint()
    parameters = opened.parameters(served_from or output_dir) | {
        name: {"checkpoint": fingerprint} for name in PIPELINE_MODELS
    }
    copy_models(output_dir, parameters, opened.input_sizes(checkpoint), opened.config_file)
    for name in (*PIPELINE_MODELS, *CODEC_MODELS):
        facts.save(output_dir / name / "1")
    for name in PIPELINE_MODELS:
        shutil.copyfile(checkpoint.tokenizer_path, output_dir / name / "1" / "tokenizer.json")

    with tqdm(ENGINES, desc=f"engines of {checkpoint_dir.name}", unit="engine") as names:
        for name in names:
            names.set_postfix_str(name)
            made_from = {
                "checkpoint": fingerprint,
                **opened.made_from(name),
                "sources": source_hash(*opened.sources(name)),
            }
            engine_dir = output_dir / name / "1" / "engine"
            build_artifact(engine_dir, made_from, _Build(checkpoint, opened, name, cache_dir=output_dir.parent))
    return output_dir


def verify_repository(
    checkpoint_dir: Path, repository: Path, precision: str, profile: ProfileName = "cpu"
) -> list[checks.Check]:
    """Compare every engine of a built repository with its reference, at several shapes."""
    checkpoint, opened = Checkpoint.open(checkpoint_dir), open_profile(profile, precision)
    results: list[checks.Check] = []
    for name in tqdm(ENGINES, desc=f"verify {checkpoint_dir.name}", unit="engine"):
        results += opened.verify(checkpoint, name, repository / name / "1" / "engine")
    return results


@dataclass(frozen=True)
class _Build:
    """Builds one engine in the empty folder that it is given, and checks it there."""

    checkpoint: Checkpoint
    profile: Profile
    name: EngineName
    cache_dir: Path

    def __call__(self, directory: Path) -> dict[str, Any]:
        told = self.profile.build(self.checkpoint, self.name, directory, self.cache_dir)
        results = self.profile.verify(self.checkpoint, self.name, directory)
        checks.require(results)
        return {"checks": [str(result) for result in results], **told}


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


def copy_models(
    output_dir: Path,
    parameters: Mapping[str, Mapping[str, str]],
    input_sizes: Mapping[str, Mapping[str, int]] | None = None,
    config_file: str = "config.pbtxt",
) -> None:
    """Copy the committed models, with some values of their configs set.

    Args:
        parameters: by model and parameter.
        input_sizes: the size of an input's one dimension, by model and input.
        config_file: the config to take, in each model's folder.

    Raises:
        KeyError: a value to set is not in the committed config.
    """
    for source in sorted(path for path in MODEL_REPO_DIR.iterdir() if path.is_dir()):
        config = text_format.Parse((source / config_file).read_text(), ModelConfig())
        for key, value in parameters.get(source.name, {}).items():
            if key not in config.parameters:
                raise KeyError(f"{source.name} has no parameter {key}")
            config.parameters[key].string_value = value
        inputs = {tensor.name: tensor for tensor in config.input}
        for name, size in (input_sizes or {}).get(source.name, {}).items():
            inputs[name].dims[:] = [size]
        (output_dir / source.name / "1").mkdir(parents=True, exist_ok=True)
        (output_dir / source.name / "config.pbtxt").write_text(config_text(config))
        if config.backend == "python":
            shutil.copyfile(source / "1" / "model.py", output_dir / source.name / "1" / "model.py")


def config_text(config: ModelConfig) -> str:
    """A config.pbtxt. What protobuf leaves out as a default, `max_batch_size: 0`, Triton would otherwise complete."""
    text = text_format.MessageToString(config)
    return text if config.max_batch_size else f"max_batch_size: 0\n{text}"
