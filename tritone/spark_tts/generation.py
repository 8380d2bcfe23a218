"""The semantic tokens of one segment, generated in the background and guarded against speech that does not end."""

import asyncio
import dataclasses
import logging
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum

import numpy as np

from tritone.observations import UNOBSERVED, Observation, Stage
from tritone.run_on import RepetitionDetector
from tritone.spark_tts.models import Phase, SparkTtsModels
from tritone.spark_tts.request import Sampling

CLOCK_PERIOD_S = 0.05  # a listener's time goes on when no tokens come

logger = logging.getLogger(__name__)


class EndReason(Enum):
    """Why speech ended where it did."""

    COMPLETE = "complete"  # everything was said
    MAX_AUDIO = "max_audio_s"  # the request's limit
    RUN_ON = "run_on"  # the model did not end by itself, and the speech was cut


@dataclass(frozen=True)
class SegmentPlan:
    """What to generate.

    Attributes:
        prompt: token ids, up to where semantic tokens follow.
        phase: the semantic tokens; its `max_tokens` is the smaller of the two limits.
        is_request_limit: whether that one is the request's own, and not the guard's.
        tokens_per_s: of speech.
        sampling: the request's own.
        index: of the segment; each segment and each attempt has a seed of its own.
        max_attempts: greedy generation has but one, since the next would be the same.
    """

    prompt: list[int]
    phase: Phase
    is_request_limit: bool
    tokens_per_s: float
    sampling: Sampling
    index: int
    max_attempts: int

    @property
    def is_of_fixed_length(self) -> bool:
        """Whether its length was asked for, and says nothing about the speech."""
        return self.phase.min_tokens == self.phase.max_tokens


class SegmentGeneration:
    """Generates from its construction on, until it has ended or is closed.

    Speech that repeats itself endlessly, or that is longer than its text can take, is generated again with another
    seed as long as nobody has used a token of it; then, and after the last attempt, it is cut and marked.
    """

    def __init__(self, models: SparkTtsModels, plan: SegmentPlan, observation: Observation = UNOBSERVED) -> None:
        self._models = models
        self._plan = plan
        self._observation = observation
        self._attempt = 0
        self._ids: list[int] = []
        self._num_used = 0
        self._progress = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())

    @property
    def num_tokens(self) -> int:
        """How many tokens there are so far."""
        return len(self._ids)

    @property
    def has_ended(self) -> bool:
        return self._task.done()

    @property
    def end_reason(self) -> EndReason:
        """Once it has ended.

        Raises:
            InvalidInput, Unavailable, RuntimeError: the language model failed.
        """
        return self._task.result()

    def semantic_tokens(self, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Values INT32 of the tokens [begin, end), all unless said, which from now on stay as they are."""
        values = np.asarray(self._ids[begin:end], np.int32) - np.int32(self._plan.phase.allowed.start)
        self._num_used = max(self._num_used, begin + len(values))
        return values

    async def progress(self) -> None:
        """Wait until there are more tokens, or the end, or it is time to look at the clock again."""
        self._progress.clear()
        waiter = asyncio.ensure_future(self._progress.wait())
        try:
            waited_for = [waiter, self._task]
            await asyncio.wait(waited_for, timeout=CLOCK_PERIOD_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()

    async def close(self) -> None:
        """Stop the language model if it is still at it."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def try_again(self) -> bool:
        """Begin anew with another seed, once it has ended or was closed; for a caller who has let nobody hear a token.

        Returns:
            False: all attempts were made, and nothing happens.
        """
        if not self._next_attempt():
            return False
        self._num_used = 0
        self._task = asyncio.ensure_future(self._run())
        return True

    def _next_attempt(self) -> bool:
        logger.warning("speech did not end: attempt %d of %d", self._attempt + 1, self._plan.max_attempts)
        if self._attempt + 1 == self._plan.max_attempts:
            return False
        self._attempt += 1
        self._ids.clear()
        self._observation.retried()
        return True

    async def _run(self) -> EndReason:
        while True:
            end_reason = await self._generate()
            if end_reason is not EndReason.RUN_ON or self._num_used or not self._next_attempt():
                return end_reason

    async def _generate(self) -> EndReason:
        repetition = RepetitionDetector(self._plan.tokens_per_s)
        sampling = dataclasses.replace(
            self._plan.sampling, seed=derived_seed(self._plan.sampling.seed, self._plan.index, self._attempt)
        )
        async with aclosing(self._models.generate(self._plan.prompt, self._plan.phase, sampling)) as groups:
            async for group in groups:
                self._observation.reached(Stage.FIRST_TOKENS)
                self._ids += group
                self._progress.set()
                if not self._plan.is_of_fixed_length:
                    repetition.feed(group)
                if repetition.num_good is not None:
                    del self._ids[max(1, self._num_used, repetition.num_good) :]
                    return EndReason.RUN_ON
        if len(self._ids) < self._plan.phase.max_tokens:
            return EndReason.COMPLETE
        return EndReason.MAX_AUDIO if self._plan.is_request_limit else EndReason.RUN_ON


def derived_seed(seed: int | None, *path: int) -> int | None:
    """A seed for each part of a request's work: the request's own for the first one (all zeros), then others."""
    if seed is None or not any(path):
        return seed
    return int(np.random.SeedSequence([seed, *path]).generate_state(1, np.uint64)[0])
