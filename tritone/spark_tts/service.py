"""What the two public models share: the parser and the pipeline of one built model repository."""

import dataclasses
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import numpy as np

from tritone.admission import Admission, AdmissionSettings
from tritone.observations import Observation, Observations
from tritone.spark_tts.facts import ModelFacts
from tritone.spark_tts.models import Inference, SparkTtsModels, Tensors
from tritone.spark_tts.pipeline import Pipeline, PipelineSettings, Speech
from tritone.spark_tts.prompts import Prompts
from tritone.spark_tts.request import ControlledVoice, Limits, ReferenceVoice, RequestParser, SynthesisRequest
from tritone.voices import VOICES_DIR_VARIABLE, TokenVoice, VoiceLibrary
from tritone.windows import StreamSettings

DEFAULT_VOICES_DIR = "voices"

_VOICE_KINDS = {ReferenceVoice: "reference", TokenVoice: "tokens", ControlledVoice: "controlled"}

Settings = TypeVar("Settings", Limits, AdmissionSettings, PipelineSettings, StreamSettings)


@dataclasses.dataclass(frozen=True)
class Service:
    """Parses requests, admits them and speaks them."""

    parser: RequestParser
    admission: Admission
    pipeline: Pipeline
    observations: Observations
    sample_rate_hz: int

    @classmethod
    def load(
        cls,
        directory: Path,
        parameters: Mapping[str, str],
        inference: Inference,
        observations: Observations | None = None,
    ) -> "Service":
        """
        Args:
            directory: holds `tokenizer.json` and `model.json`, as `build_engines` writes them.
            parameters: of the model's config.pbtxt; those named like a field of a settings class count.
            inference: how the pipeline calls its models.
            observations: of the requests; None: nobody watches.
        """
        facts = ModelFacts.load(directory)
        prompts = Prompts(directory / "tokenizer.json")
        voices = VoiceLibrary(Path(os.environ.get(VOICES_DIR_VARIABLE, DEFAULT_VOICES_DIR)))
        parser = RequestParser(
            prompts.tokens, voices, _settings(Limits, parameters), facts.sample_rate_hz, facts.tokens_per_s
        )
        pipeline = Pipeline(
            SparkTtsModels(inference),
            prompts,
            facts,
            _settings(PipelineSettings, parameters),
            _settings(StreamSettings, parameters),
        )
        admission, observations = _settings(AdmissionSettings, parameters), observations or Observations()
        observations.limit.set(admission.max_requests)
        return cls(parser, Admission(admission), pipeline, observations, facts.sample_rate_hz)

    async def whole(self, inputs: Tensors) -> AsyncGenerator[dict[str, np.ndarray], None]:
        """The one response of the unary model.

        Raises:
            InvalidInput: the request cannot be understood.
            Unavailable: too many are being served.
        """
        with self.observations.request() as observation, self.admission.enter():
            speech = await self.pipeline.whole(self._start(inputs, observation), observation)
            yield _response(speech)
            self._sent(speech, observation)

    async def stream(self, inputs: Tensors) -> AsyncGenerator[dict[str, np.ndarray], None]:
        """The responses of the streaming model; raises as `whole`."""
        with self.observations.request() as observation, self.admission.enter():
            async with aclosing(self.pipeline.stream(self._start(inputs, observation), observation)) as pieces:
                async for speech in pieces:
                    yield _response(speech)
                    self._sent(speech, observation)

    def _start(self, inputs: Tensors, observation: Observation) -> SynthesisRequest:
        request = self.parser.parse(inputs)
        observation.started(_VOICE_KINDS[type(request.voice)])
        return request

    def _sent(self, speech: Speech, observation: Observation) -> None:
        observation.sent(len(speech.waveform) / self.sample_rate_hz)


def _response(speech: Speech) -> dict[str, np.ndarray]:
    """Tensors [1, n], by name."""
    tensors = {"waveform": speech.waveform[None]}
    if speech.end_reason is not None:
        assert speech.global_tokens is not None and speech.semantic_tokens is not None
        tensors["global_tokens"] = speech.global_tokens[None]
        tensors["semantic_tokens"] = speech.semantic_tokens[None]
        tensors["end_reason"] = np.array([[speech.end_reason.value.encode()]], np.object_)
    return tensors


def _settings(kind: type[Settings], parameters: Mapping[str, str]) -> Settings:
    """A settings dataclass with the fields that `parameters` name, each read as its default's type."""
    default = kind()
    names = [field.name for field in dataclasses.fields(kind) if field.name in parameters]
    return dataclasses.replace(default, **{name: type(getattr(default, name))(parameters[name]) for name in names})
