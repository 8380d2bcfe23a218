"""The models that the pipeline calls, as typed coroutines over any way of calling a model."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from tritone.spark_tts.lm_tensors import LmTensors
from tritone.spark_tts.request import Sampling
from tritone.spark_tts.tokens import NUM_GLOBAL_TOKENS

Tensors = Mapping[str, np.ndarray]


class Inference(Protocol):
    """Calls the models of a repository by name."""

    async def call(self, model: str, inputs: Tensors, outputs: list[str]) -> dict[str, np.ndarray]:
        """One request, one response."""

    def stream(
        self, model: str, inputs: Tensors, outputs: list[str], stop: Tensors
    ) -> AsyncGenerator[dict[str, np.ndarray], None]:
        """One request, its responses as they come; closing the generator early sends `stop` under the same id."""


@runtime_checkable
class DescribedInference(Inference, Protocol):
    """Calls served models, which can be asked what they take. Engines driven without a server take the newest names."""

    async def input_shapes(self, model: str) -> dict[str, tuple[int, ...]]:
        """The shape of each input of a model, the batch axis among it where there is one; -1: any size."""


@dataclass(frozen=True)
class Phase:
    """One stretch of generation with a single kind of allowed token.

    Attributes:
        allowed: the ids that may be emitted; `end_id` besides them when it is given.
        max_tokens: at most so many ids; without an `end_id` exactly so many.
        end_id: ends the phase; never among the ids that come back.
        min_tokens: at least so many, and not 0, since speech of no token at all cannot be decoded.
    """

    allowed: range
    max_tokens: int
    end_id: int | None = None
    min_tokens: int = 1


class SparkTtsModels:
    """The audio encoders, the language model and the vocoder, by the tensors of their contracts."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._lm_tensors: LmTensors | None = None  # asked for at first use: until then the model may not be loaded

    async def speaker_tokens(self, waveform: np.ndarray) -> np.ndarray:
        """Global tokens INT32 [32] of reference audio FP32 [n]; needs no wav2vec2."""
        tensors = await self._inference.call("speaker_encoder", _reference(waveform), ["global_tokens"])
        return tensors["global_tokens"].reshape(NUM_GLOBAL_TOKENS)

    async def reference_tokens(self, waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Global tokens INT32 [32] and semantic tokens INT32 [m] of reference audio FP32 [n]."""
        speaker, said = await asyncio.gather(
            self.speaker_tokens(waveform),
            self._inference.call("semantic_encoder", _reference(waveform), ["semantic_tokens"]),
        )
        return speaker, said["semantic_tokens"].reshape(-1)

    async def decode(
        self, global_tokens: np.ndarray, semantic_tokens: np.ndarray, keep_begin: int, keep_end: int
    ) -> np.ndarray:
        """Waveform FP32 [samples] of the tokens [keep_begin, keep_end) among semantic tokens [m], voice [32]."""
        inputs = {
            "global_tokens": global_tokens[None],
            "semantic_tokens": semantic_tokens[None],
            "keep_begin": np.array([[keep_begin]], np.int32),
            "keep_end": np.array([[keep_end]], np.int32),
        }
        tensors = await self._inference.call("vocoder", inputs, ["waveform"])
        return tensors["waveform"].reshape(-1)

    async def generate(self, prompt: list[int], phase: Phase, sampling: Sampling) -> AsyncGenerator[list[int], None]:
        """The ids of one phase, in groups as they come; closing the generator stops the language model.

        Raises:
            RuntimeError: the language model emitted what the phase does not allow.
        """
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        # greedy by top_k and not by temperature 0, which TensorRT-LLM only comes near to
        top_k, temperature = (1, 1.0) if sampling.is_greedy else (sampling.top_k, sampling.temperature)
        inputs: dict[str, np.ndarray] = {
            "input_ids": np.array(prompt, np.int32),
            "input_lengths": np.array([len(prompt)], np.int32),
            "request_output_len": np.array([phase.max_tokens], np.int32),
            "temperature": np.array([temperature], np.float32),
            "runtime_top_k": np.array([top_k], np.int32),
            "runtime_top_p": np.array([sampling.top_p], np.float32),
            "repetition_penalty": np.array([sampling.repetition_penalty], np.float32),
            "seed": np.array([seed], np.uint64),
            "streaming": np.array([True]),
            "exclude_input_in_output": np.array([True]),
        }
        if phase.end_id is not None:
            inputs["end_id"] = inputs["pad_id"] = np.array([phase.end_id], np.int32)
            # never without an end: TensorRT-LLM would write to the logit of token -1, outside its memory
            inputs["min_tokens"] = np.array([phase.min_tokens], np.int32)
        stop = {name: inputs[name] for name in ("input_ids", "input_lengths", "request_output_len")}
        stop |= {"stop": np.array([True])}
        lm_tensors = await self._tensors_of_lm()
        if lm_tensors is not None:
            ends = [] if phase.end_id is None else [range(phase.end_id, phase.end_id + 1)]
            inputs = lm_tensors.request(inputs, [phase.allowed, *ends])
            stop = lm_tensors.request(stop)
        num_ids = 0
        stream = self._inference.stream("speech_lm", inputs, ["output_ids", "sequence_length"], stop)
        async with aclosing(stream) as responses:
            async for response in responses:
                length = int(response["sequence_length"].reshape(-1)[0])
                ids = response["output_ids"].reshape(-1)[:length].tolist()
                if phase.end_id is not None and ids and ids[-1] == phase.end_id:
                    ids.pop()
                if any(token_id not in phase.allowed for token_id in ids):
                    raise RuntimeError(f"speech_lm emitted an id outside {phase.allowed}")
                num_ids += len(ids)
                if ids:
                    yield ids
        if phase.end_id is None and num_ids != phase.max_tokens:
            raise RuntimeError(f"speech_lm emitted {num_ids} ids of {phase.max_tokens}")

    async def _tensors_of_lm(self) -> LmTensors | None:
        if self._lm_tensors is None and isinstance(self._inference, DescribedInference):
            self._lm_tensors = LmTensors.from_shapes(await self._inference.input_shapes("speech_lm"))
        return self._lm_tensors


def _reference(waveform: np.ndarray) -> dict[str, np.ndarray]:
    return {"reference_wav": waveform[None], "reference_wav_len": np.array([[len(waveform)]], np.int32)}
