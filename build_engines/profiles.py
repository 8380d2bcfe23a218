"""What sets the profiles apart: which configs they serve, which engines they build, and with what."""

import importlib
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from build_engines.checkpoint import Checkpoint
from build_engines.checks import Check

SOURCES = Path(__file__).resolve().parent
PROJECT_DIR = SOURCES.parent
CORE = PROJECT_DIR / "tritone"

ProfileName = Literal["cpu", "gpu"]
PROFILES: tuple[ProfileName, ...] = get_args(ProfileName)
# of the language model; the first one unless said
PRECISIONS: dict[ProfileName, tuple[str, ...]] = {"cpu": ("int8", "bf16", "f32"), "gpu": ("bf16", "int8")}

CodecModel = Literal["speaker_encoder", "semantic_encoder", "vocoder"]
EngineName = Literal["speech_lm"] | CodecModel
CODEC_MODELS: tuple[CodecModel, ...] = get_args(CodecModel)
ENGINES: tuple[EngineName, ...] = ("speech_lm", *CODEC_MODELS)


class Profile(Protocol):
    """One profile with its precision; a class named Profile in `build_engines.<name>_profile`.

    Attributes:
        config_file: the committed config of a model, in its folder.
    """

    config_file: str

    def __init__(self, precision: str) -> None: ...

    def parameters(self, served_from: Path) -> dict[str, dict[str, str]]:
        """The parameters to set in each model's config, for a repository that is served from a folder."""

    def input_sizes(self, checkpoint: Checkpoint) -> dict[str, dict[str, int]]:
        """The sizes of inputs that depend on the checkpoint, by model and input."""

    def made_from(self, name: EngineName) -> dict[str, Any]:
        """What besides checkpoint and sources decides how an engine comes out, in JSON's types."""

    def sources(self, name: EngineName) -> list[Path]:
        """The source files that decide how an engine comes out."""

    def build(self, checkpoint: Checkpoint, name: EngineName, directory: Path, cache_dir: Path) -> dict[str, Any]:
        """Write an engine into an empty folder; what its manifest should tell besides.

        Args:
            cache_dir: for what later builds can use; it exists.
        """

    def verify(self, checkpoint: Checkpoint, name: EngineName, directory: Path) -> list[Check]:
        """Compare an engine with its reference."""


def open_profile(name: ProfileName, precision: str) -> Profile:
    """A profile by its name. Only what it needs is imported: neither profile's libraries are there on the other's side.

    Raises:
        ValueError: it has no such precision.
    """
    if precision not in PRECISIONS[name]:
        raise ValueError(f"the {name} profile has the precisions {', '.join(PRECISIONS[name])}, not {precision}")
    profile: Profile = importlib.import_module(f"build_engines.{name}_profile").Profile(precision)
    return profile
