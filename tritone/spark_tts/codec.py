"""The codec's three engines as the server runs them: what goes in is checked, rows of one shape run together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np

from tritone.audio import check_reference, normalize_volume, reference_clip
from tritone.engines import Engine, Precision, cpu_has_bf16
from tritone.errors import InvalidInput
from tritone.spark_tts.facts import ModelFacts
from tritone.spark_tts.tokens import check_codes
from tritone.spark_tts.vocoder import VocoderEngine
from tritone.turns import Turns

Inputs = Mapping[str, np.ndarray]
Row = TypeVar("Row")
Encoder = TypeVar("Encoder", bound="_ReferenceEncoder")


def _precision(parameters: Mapping[str, str]) -> Precision:
    """As the config.pbtxt says, but bf16 only where the CPU has it; elsewhere it would be slower than f32."""
    return "bf16" if parameters["precision"] == "bf16" and cpu_has_bf16() else "f32"


class _ReferenceEncoder:
    """An engine that hears reference audio."""

    graph: str

    def __init__(self, engine: Engine, facts: ModelFacts, parameters: Mapping[str, str]) -> None:
        self._engine = engine
        self._facts = facts
        self._parameters = parameters

    @classmethod
    def load(cls: type[Encoder], directory: Path, parameters: Mapping[str, str]) -> Encoder:
        """Compile the engine in a model's version folder, as the parameters of its config.pbtxt say."""
        path = directory / "engine" / f"{cls.graph}.xml"
        engine = Engine(path, _precision(parameters), int(parameters["num_threads"]))
        return cls(engine, ModelFacts.load(directory), parameters)

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

    graph = "speaker_encoder"

    def run(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """INT32 [32] for each prepared waveform FP32 [n]."""
        clips = np.stack([reference_clip(row, self._facts.num_reference_samples) for row in rows])
        return list(self._engine.run({"reference_clip": clips})["global_tokens"])


class SemanticEncoder(_ReferenceEncoder):
    """Reference audio to semantic tokens."""

    graph = "semantic_encoder"

    def rows(self, inputs: Inputs) -> list[np.ndarray]:
        """As the base class; the rows of one request become one tensor, so they have one length."""
        rows = super().rows(inputs)
        if len({len(row) for row in rows}) > 1:
            raise InvalidInput("reference_wav_len must be the same for all rows of one request: send them one by one")
        return rows

    def run(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """INT32 [m] for each prepared waveform FP32 [n]; padding would change tokens, so equal lengths run together."""
        return _run_by_shape(rows, len, lambda same: self._engine.run({"wav": np.stack(same)})["semantic_tokens"])


@dataclass(frozen=True)
class VocoderRow:
    """Global tokens [32] and semantic tokens [m] of an utterance; the samples of tokens [begin, end) are wanted."""

    global_tokens: np.ndarray
    semantic_tokens: np.ndarray
    begin: int
    end: int


class Vocoder:
    """Tokens to a waveform."""

    def __init__(self, engine: VocoderEngine, facts: ModelFacts) -> None:
        self._engine = engine
        self._facts = facts

    @classmethod
    def load(cls, directory: Path, parameters: Mapping[str, str], turns: Turns | None = None) -> "Vocoder":
        """Compile the engines in a model's version folder, as the parameters of its config.pbtxt say."""
        facts = ModelFacts.load(directory)
        engine = VocoderEngine(
            directory / "engine",
            facts.wave_field_tokens,
            _precision(parameters),
            int(parameters["num_threads"]),
            turns=turns,
        )
        return cls(engine, facts)

    def rows(self, inputs: Inputs) -> list[VocoderRow]:
        """The rows of one request.

        Raises:
            InvalidInput: there are no tokens, a value is none of the codec's, or keep_begin and keep_end are not a
                stretch of the tokens.
        """
        for field, num_codes in (
            ("global_tokens", self._facts.num_global_codes),
            ("semantic_tokens", self._facts.num_semantic_codes),
        ):
            check_codes(field, inputs[field], num_codes)
        batch_size, num_tokens = inputs["semantic_tokens"].shape
        begins = inputs.get("keep_begin", np.zeros((batch_size, 1), np.int32)).reshape(-1).tolist()
        ends = inputs.get("keep_end", np.full((batch_size, 1), num_tokens, np.int32)).reshape(-1).tolist()
        for begin, end in zip(begins, ends, strict=True):
            if not 0 <= begin < end <= num_tokens:
                raise InvalidInput(
                    f"keep_begin and keep_end must be a stretch of the {num_tokens} semantic_tokens, "
                    f"got {begin} and {end}"
                )
            if end - begin != ends[0] - begins[0]:
                raise InvalidInput("keep_begin and keep_end must keep as many tokens in every row of one request")
        return list(map(VocoderRow, inputs["global_tokens"], inputs["semantic_tokens"], begins, ends))

    def run(self, rows: Sequence[VocoderRow]) -> list[np.ndarray]:
        """FP32 [samples_per_token (end - begin)] for each row."""
        return [self._engine.decode(row.global_tokens, row.semantic_tokens, row.begin, row.end) for row in rows]


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
