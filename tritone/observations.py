"""What becomes of the requests of a public model: counted for the metrics endpoint and, where it is traced, as spans.

The pipeline tells an `Observation`; where the numbers go is the affair of whoever makes `Observations`. Every series is
there from the start, at 0. A change of one is a message to the server, so there are some ten of them for a request, one
or two for a piece of a stream, and none for a token.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, Protocol

from tritone import tracing
from tritone.errors import InvalidInput, Unavailable

VOICE_KINDS = ("reference", "tokens", "controlled")
UNKNOWN_VOICE = "unknown"  # of a request that was refused before its voice was read
OUTCOMES = ("ok", "invalid", "unavailable", "cancelled", "error")


class Stage(IntEnum):
    """What a request's time until its first audio goes into, in order, and the rest."""

    TOKENISE = 1  # text and voice become what the language model reads; a voice from labels is chosen here, too
    PREFILL = 2  # until the language model's first token of speech
    FIRST_TOKENS = 3  # until there are as many as the first window takes
    FIRST_WINDOW = 4  # the vocoder decodes it
    REMAINDER = 5


class Observation:
    """Told what happens to one request, on the event loop's thread. This one heeds nothing."""

    def started(self, voice_kind: str) -> None:
        """The request was admitted and understood; its voice is one of VOICE_KINDS."""

    def reached(self, stage: Stage) -> None:
        """A stage begins; those of later segments and windows don't count again."""

    def looked_up_voice(self, found: bool) -> None:
        """Reference audio was looked for among what is known."""

    def retried(self) -> None:
        """A segment is generated once more, since its speech did not end."""

    def sent(self, audio_s: float) -> None:
        """So much audio has gone out."""


UNOBSERVED = Observation()


@dataclass(frozen=True)
class MetricFamily:
    """A metric as Prometheus knows it; a histogram's `buckets` are their upper bounds."""

    name: str
    description: str
    kind: Literal["counter", "gauge", "histogram"]
    buckets: tuple[float, ...] = ()


class Metric(Protocol):
    """One series, or a histogram's series, of a family."""

    def add(self, amount: float) -> None:
        """Count on."""

    def set(self, value: float) -> None:
        """Put a gauge to a value."""

    def observe(self, value: float) -> None:
        """Put a value into a histogram."""


class NoMetric:
    """For a pipeline without a server."""

    def __init__(self, family: MetricFamily, labels: Mapping[str, str]) -> None:
        pass

    def add(self, amount: float) -> None:
        """Heeds nothing."""

    set = observe = add


REQUESTS = MetricFamily("tritone_requests_total", "Requests that ended", "counter")
RUNNING = MetricFamily("tritone_requests_running", "Requests that were admitted and have not ended", "gauge")
WAITING = MetricFamily("tritone_requests_waiting", "Running requests of which no audio was made yet", "gauge")
LIMIT = MetricFamily("tritone_requests_limit", "At most so many requests run; more are refused", "gauge")
FIRST_AUDIO = MetricFamily(
    "tritone_first_audio_seconds",
    "From taking a request until its first audio is sent",
    "histogram",
    (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30),
)
REAL_TIME_FACTOR = MetricFamily(
    "tritone_real_time_factor",
    "Duration of a request by that of its audio",
    "histogram",
    (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1, 1.5, 2, 3, 5),
)
AUDIO = MetricFamily("tritone_audio_seconds_total", "Audio that was sent", "counter")
VOICE_LOOKUPS = MetricFamily("tritone_voice_cache_lookups_total", "Reference audio, known already or not", "counter")
RETRIES = MetricFamily("tritone_run_on_retries_total", "Segments generated again, as they did not end", "counter")

LM_RUNNING = MetricFamily("tritone_lm_running", "Sequences that the language model is working on", "gauge")
LM_WAITING = MetricFamily("tritone_lm_waiting", "Sequences that wait for a place in the language model", "gauge")
LM_TOKENS = MetricFamily("tritone_lm_tokens_total", "Tokens that the language model has made", "counter")
VOCODER_TOKENS = MetricFamily("tritone_vocoder_tokens_total", "Tokens that became speech", "counter")


class Observations:
    """Of all requests of one public model; on one thread."""

    def __init__(
        self, mode: str = "", new_metric: Callable[[MetricFamily, Mapping[str, str]], Metric] = NoMetric
    ) -> None:
        """
        Args:
            mode: tells the models apart, in the label of that name.
            new_metric: the metric of a family with these labels.
        """

        def metric(family: MetricFamily, **labels: str) -> Metric:
            return new_metric(family, {"mode": mode, **labels})

        self.mode = mode
        self.requests = {
            (voice, outcome): metric(REQUESTS, voice=voice, outcome=outcome)
            for voice in (*VOICE_KINDS, UNKNOWN_VOICE)
            for outcome in OUTCOMES
        }
        self.running = Level(metric(RUNNING))
        self.waiting = Level(metric(WAITING))
        self.limit = metric(LIMIT)
        self.first_audio = metric(FIRST_AUDIO)
        self.real_time_factor = metric(REAL_TIME_FACTOR)
        self.audio = metric(AUDIO)
        self.voice_lookups = {
            found: metric(VOICE_LOOKUPS, result=result) for found, result in ((True, "hit"), (False, "miss"))
        }
        self.retries = metric(RETRIES)

    @contextmanager
    def request(self) -> Iterator[Observation]:
        """Observe a request from its beginning to its end, whatever that is."""
        request = _ObservedRequest(self)
        outcome = "ok"
        try:
            yield request
        except BaseException as error:
            outcome = _outcome(error)
            raise
        finally:
            request.ended(outcome)


class Level:
    """A gauge of what comes and goes."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._value = 0

    def change(self, difference: int) -> None:
        """So many more, or fewer."""
        self._value += difference
        self._metric.set(self._value)


class _ObservedRequest(Observation):
    def __init__(self, observations: Observations) -> None:
        self._all = observations
        self._began_at_s = time.monotonic()
        self._trace = tracing.begin("speech", {"mode": observations.mode})
        self._voice_kind = UNKNOWN_VOICE
        self._stage: Stage | None = None  # once it has started
        self._audio_s = 0.0

    def started(self, voice_kind: str) -> None:
        self._voice_kind = voice_kind
        self._all.running.change(1)
        self._all.waiting.change(1)
        self._enter(Stage.TOKENISE)

    def reached(self, stage: Stage) -> None:
        if self._stage is not None and stage > self._stage:
            self._enter(stage)
            if stage is Stage.REMAINDER:
                self._all.waiting.change(-1)

    def looked_up_voice(self, found: bool) -> None:
        self._all.voice_lookups[found].add(1)

    def retried(self) -> None:
        self._all.retries.add(1)
        self._trace.event("retry")

    def sent(self, audio_s: float) -> None:
        if not self._audio_s:
            self._all.first_audio.observe(self._duration_s())
        self._audio_s += audio_s
        self._all.audio.add(audio_s)

    def ended(self, outcome: str) -> None:
        """The request's end; one of OUTCOMES."""
        if self._stage is not None:
            self._all.running.change(-1)
            if self._stage < Stage.REMAINDER:
                self._all.waiting.change(-1)
        if outcome == "ok" and self._audio_s:
            self._all.real_time_factor.observe(self._duration_s() / self._audio_s)
        self._all.requests[self._voice_kind, outcome].add(1)
        self._trace.end({"voice": self._voice_kind, "outcome": outcome, "audio_seconds": self._audio_s})

    def _enter(self, stage: Stage) -> None:
        self._stage = stage
        self._trace.stage(stage.name.lower())

    def _duration_s(self) -> float:
        return time.monotonic() - self._began_at_s


def _outcome(error: BaseException) -> str:
    if isinstance(error, InvalidInput):
        return "invalid"
    if isinstance(error, Unavailable):
        return "unavailable"
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return "cancelled"
    return "error"
