"""The codec's three engines as the server runs them: what goes in is checked, rows of one shape run together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from tritone.audio import check_reference, normalize_volume, reference_clip
from tritone.engines import Engine, open_engine, run_together
from tritone.errors import InvalidInput
from tritone.spark_tts.facts import ModelFacts
from tritone.spark_tts.tokens import check_codes
from tritone.spark_tts.vocoder import VocoderEngine, VocoderRow
from tritone.turns import Turns

Inputs = Mapping[str, np.ndarray]
Encoder = TypeVar("Encoder", bound="_ReferenceEncoder")


class _ReferenceEncoder:
    """An engine that hears reference audio."""

    graph: str
    input: str
    output: str

    def __init__(self, engine: Engine, facts: ModelFacts, parameters: Mapping[str, str]) -> None:
        self._engine = engine
        self._facts = facts
        self._parameters = parameters

    @classmethod
    def load(cls: type[Encoder], directory: Path, parameters: Mapping[str, str]) -> Encoder:
        """Open the engine in a model's version folder, as the parameters of its config.pbtxt say."""
        engine = open_engine(directory / "engine", cls.graph, parameters)
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

    def _encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The tokens of each waveform; padding would change them, so those of one length run together."""

        def run(same: list[np.ndarray]) -> np.ndarray:
            tokens = self._engine.run({self.input: np.stack(same)})[self.output]
            return self._engine.device.to_host(tokens)

        return run_together(waveforms, len, run, self._engine.max_batch)


class SpeakerEncoder(_ReferenceEncoder):
    """Reference audio to global tokens."""

    graph, input, output = "speaker_encoder", "reference_clip", "global_tokens"

    def run(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """INT32 [32] for each prepared waveform FP32 [n]."""
        return self._encode([reference_clip(row, self._facts.num_reference_samples) for row in rows])


class SemanticEncoder(_ReferenceEncoder):
    """Reference audio to semantic tokens."""

    graph, input, output = "semantic_encoder", "wav", "semantic_tokens"

    def rows(self, inputs: Inputs) -> list[np.ndarray]:
        """As the base class; the rows of one request become one tensor, so they have one length."""
        rows = super().rows(inputs)
        if len({len(row) for row in rows}) > 1:
            raise InvalidInput("reference_wav_len must be the same for all rows of one request: send them one by one")
        return rows

    def run(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """INT32 [m] for each prepared waveform FP32 [n]."""
        return self._encode(rows)


class Vocoder:
    """Tokens to a waveform."""

    def __init__(self, engine: VocoderEngine, facts: ModelFacts) -> None:
        self._engine = engine
        self._facts = facts

    @classmethod
    def load(cls, directory: Path, parameters: Mapping[str, str], turns: Turns | None = None) -> "Vocoder":
        """Open the engines in a model's version folder, as the parameters of its config.pbtxt say."""
        facts = ModelFacts.load(directory)
        fields = (facts.receptive_field_tokens, facts.wave_field_tokens)
        return cls(VocoderEngine.open(directory / "engine", *fields, parameters, turns), facts)

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
        return self._engine.decode(rows)
