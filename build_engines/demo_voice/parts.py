"""The parts of the training, what each one needs, and where it keeps what it made."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from build_engines.demo_voice import (
    assembly,
    language_model,
    listening,
    prenet,
    semantic,
    speaker,
    vocoder,
    wave,
)
from build_engines.demo_voice import data as rendered
from build_engines.demo_voice.data import Dataset
from build_engines.demo_voice.settings import Settings
from build_engines.demo_voice.training import Training, device, is_trained, train, trained_state
from tritone.spark_tts.prompts import Prompts
from tritone.spark_tts.tokens import NUM_GLOBAL_TOKENS


class Workshop:
    """A folder in which a checkpoint is made: `data/`, `heard/`, one state a trained part, the tokenizer.

    Every method goes on where it was interrupted and does nothing when its work is done.
    """

    def __init__(self, directory: Path, settings: Settings) -> None:
        self.directory = directory
        self.settings = settings
        self._device = device()

    @functools.cached_property
    def data(self) -> Dataset:
        """All utterances; raises where they are not rendered."""
        return Dataset.open(self.directory / "data")

    @functools.cached_property
    def prompts(self) -> Prompts:
        path = self.directory / "tokenizer.json"
        if not path.exists():
            assembly.write_tokenizer(path, self.settings)
        return Prompts(path)

    @functools.cached_property
    def vocabulary(self) -> language_model.CompactVocabulary:
        """Of the language model."""
        return language_model.CompactVocabulary(self.prompts, self.data.codes.codes, self.settings.size.vocab_size)

    def render(self) -> None:
        """The data."""
        settings = self.settings
        rendered.render(self.directory / "data", settings.num_utterances, settings.max_duration_s, settings.seed)

    def training(self, name: str) -> Training:
        """What one trained part trains."""
        match name:
            case "vocoder":
                states = (self.state(needed) for needed in ("prenet", "wave", "speaker", "semantic"))
                return vocoder.training(self.data, self.settings, self._device, *states)
            case "language_model" | "adaptation":
                return self._language_model(name)
        module = {"wave": wave, "prenet": prenet, "speaker": speaker, "semantic": semantic}[name]
        return module.training(self.data, self.settings, self._device)

    def train(self, name: str, max_steps: int | None = None) -> list[float]:
        """Train one part, at most `max_steps` further, and give the losses of all its steps so far."""
        return train(self.training(name), self._path(name), self.settings, max_steps)

    def listen(self) -> None:
        """What the trained encoders hear."""
        states = self.state("speaker"), self.state("semantic")
        listening.listen(self.data, self.directory / "heard", self.settings, self._device, *states)

    def assemble(self, output_dir: Path) -> Path:
        """Write the checkpoint of the trained parts."""
        return assembly.write_checkpoint(
            output_dir,
            self.settings,
            self.directory / "tokenizer.json",
            vocoder=self.state("vocoder"),
            speaker=self.state("speaker"),
            semantic=self.state("semantic"),
            language_model=self.state("adaptation"),
            vocabulary=self.vocabulary,
        )

    def is_done(self, name: str) -> bool:
        """Whether a part has nothing left to do."""
        if name == "data":
            return self._num_shards("data", "jsonl") == -(-self.settings.num_utterances // rendered.SHARD_UTTERANCES)
        if name == "listening":
            return self._num_shards("heard", "npz") == -(-self.settings.num_heard // listening.SHARD_UTTERANCES)
        return is_trained(self._path(name), self.settings)

    def state(self, name: str) -> dict[str, torch.Tensor]:
        """The module of a trained part."""
        return trained_state(self._path(name), self.settings)

    def _language_model(self, name: str) -> Training:
        if name == "language_model":
            heard, start, voices_share = {}, None, 0.0
        else:
            heard = listening.load_heard(self.directory / "heard", NUM_GLOBAL_TOKENS)
            start, voices_share = self.state("language_model"), self.settings.adaptation_voices_share
        budget = self.settings.budget(name)
        return language_model.training(
            self.data, heard, self.prompts, self.vocabulary, self.settings, budget, self._device, start, voices_share
        )

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}.pt"

    def _num_shards(self, folder: str, suffix: str) -> int:
        return len(list((self.directory / folder).glob(f"*.{suffix}")))


@dataclass(frozen=True)
class Part:
    """One step of the way: what must be done before it, and how it is done."""

    needs: tuple[str, ...]
    run: Callable[[Workshop], object]


def _trained(name: str, *needs: str) -> Part:
    return Part(needs, lambda workshop: workshop.train(name))


# In the order in which they are begun where two could be: the long chain to the language model first.
PARTS: dict[str, Part] = {
    "data": Part((), Workshop.render),
    "language_model": _trained("language_model", "data"),
    "semantic": _trained("semantic", "data"),
    "speaker": _trained("speaker", "data"),
    "listening": Part(("semantic", "speaker"), Workshop.listen),
    "adaptation": _trained("adaptation", "language_model", "listening"),
    "wave": _trained("wave", "data"),
    "prenet": _trained("prenet", "data"),
    "vocoder": _trained("vocoder", "prenet", "wave", "speaker", "semantic"),
}
