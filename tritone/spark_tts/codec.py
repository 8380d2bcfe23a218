"""The codec's three engines as the server runs them: what goes in is checked, rows of one shape run together."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from tritone.audio import check_reference, normalize_volume, reference_clip
from tritone.engines import Engine, Precision, cpu_has_bf16
from tritone.errors import InvalidInput
from tritone.spark_tts.facts import ModelFacts
from tritone.spark_tts.tokens import check_codes

Inputs = Mapping[str, np.ndarray]
Row = TypeVar("Row")
Model = TypeVar("Model", bound="_EngineModel")


class _EngineModel(Generic[Row]):
    """One engine with the facts of its checkpoint."""

    def __init__(self, engine: Engine, facts: ModelFacts, parameters: Mapping[str, str]) -> None:
        self._engine = engine
        self._facts = facts
        self._parameters = parameters

    @classmethod
    def load(cls: type[Model], directory: Path, parameters: Mapping[str, str]) -> Model:
        """Compile the engine in a model's version folder, as the parameters of its config.pbtxt say.

        bf16 is taken where the CPU has it; elsewhere it would be slower than f32.
        """
        precision: Precision = "bf16" if parameters["precision"] == "bf16" and cpu_has_bf16() else "f32"
        engine = Engine(directory / "engine" / "model.xml", precision, int(parameters["num_threads"]))
        return cls(engine, ModelFacts.load(directory), parameters)


class _ReferenceEncoder(_EngineModel[np.ndarray]):
    """An engine that hears reference audio."""

    def rows(self, inputs: Inputs) -> list[np.ndarray]:
        """The prepared reference audio of each row: `reference_wav` [b, n] up to its `reference_wav_len` [b, 1].

        Raises:
            InvalidInput: a row cannot be a reference.
        """
        waveforms, lengths = inputs["reference_wav"], inputs["reference_wav_len"].reshape(-1)
        return [self._prepared(waveform, int(length)) for waveform, length in zip(waveforms, lengths, strict=True)]

    def _prepared(self, waveform: np.ndarray, length: int) -> np.ndarray:
        if not 1 <= length <= len(waveform):
            raise InvalidInput(f"reference_wav_len must be between 1 and {len(waveform)}, got {length}")
        waveform = waveform[:length].astype(np.float64)
        check_reference(
            waveform,
            self._facts.sample_rate_hz,
            min_duration_s=float(self._parameters["min_reference_s"]),
            max_duration_s=float(self._parameters["max_reference_s"]),
        )
        return (normalize_volume(waveform) if self._facts.normalize_volume else waveform).astype(np.float32)


class SpeakerEncoder(_ReferenceEncoder):
    """Reference audio to global tokens."""

    def run(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """INT32 [32] for each prepared waveform FP32 [n]."""
        clips = np.stack([reference_clip(row, self._facts.num_reference_samples) for row in rows])
        return list(self._engine.run({"reference_clip": clips})["global_tokens"])


class SemanticEncoder(_ReferenceEncoder):
    """Reference audio to semantic tokens."""

    def rows(self, inputs: Inputs) -> list[np.ndarray]:
        """As the base class; the rows of one request become one tensor, so they have one length."""
        rows = super().rows(inputs)
        if len({len(row) for row in rows}) > 1:
            raise InvalidInput("reference_wav_len must be the same for all rows of one request: send them one by one")
        return rows

    def run(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """INT32 [m] for each prepared waveform FP32 [n]; padding would change tokens, so equal lengths run together."""
        return _run_by_shape(rows, len, lambda same: self._engine.run({"wav": np.stack(same)})["semantic_tokens"])


class Vocoder(_EngineModel[tuple[np.ndarray, np.ndarray]]):
    """Tokens to a waveform."""

    def rows(self, inputs: Inputs) -> list[tuple[np.ndarray, np.ndarray]]:
        """Global tokens [32] and semantic tokens [m] of each row.

        Raises:
            InvalidInput: there are none, or a value is none of the codec's.
        """
        for field, num_codes in (
            ("global_tokens", self._facts.num_global_codes),
            ("semantic_tokens", self._facts.num_semantic_codes),
        ):
            check_codes(field, inputs[field], num_codes)
        return list(zip(inputs["global_tokens"], inputs["semantic_tokens"], strict=True))

    def run(self, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        """FP32 [samples_per_token m] for each row."""

        def decode(same: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
            global_tokens, semantic_tokens = (np.stack(column) for column in zip(*same, strict=True))
            inputs = {"global_tokens": global_tokens, "semantic_tokens": semantic_tokens}
            return self._engine.run(inputs)["waveform"]

        return _run_by_shape(rows, lambda row: len(row[1]), decode)


def _run_by_shape(
    rows: Sequence[Row], shape_of: Callable[[Row], int], run: Callable[[list[Row]], np.ndarray]
) -> list[np.ndarray]:
    """What `run` gives for each row, with rows of one shape run together."""
    results: dict[int, np.ndarray] = {}
    order = sorted(range(len(rows)), key=lambda i: shape_of(rows[i]))
    for _, same in groupby(order, key=lambda i: shape_of(rows[i])):
        indices = list(same)
        results |= zip(indices, run([rows[i] for i in indices]), strict=True)
    return [results[i] for i in range(len(rows))]
