"""The LM on a CPU: token ids in, token ids out, many requests decoded together by OpenVINO GenAI."""

import json
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai

from tritone.errors import InvalidInput
from tritone.turns import NoTurns, Turns
from tritone.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

TOKENS_PER_KV_BLOCK = 32  # OpenVINO GenAI's block size on a CPU


@dataclass(frozen=True)
class SpeechLmSettings:
    """What a running LM may use.

    The KV cache is sized on purpose: a token takes 2 * layers * key/value heads * head size bytes and
    little more, about 7 KB in the published size; twice that in bf16 and four times in float32.
    """

    precision: str = "int8"  # of the engine's weights; "f32" makes everything else float32, too
    num_threads: int = 0  # all cores
    kv_cache_tokens: int = 65536  # prompts and their continuations, of all running sequences together
    max_num_sequences: int = 16  # decoded together; more wait for their turn
    max_num_batched_tokens: int = 64  # per step; small, so that a new prompt does not stall running streams
    max_tokens_per_delivery: int = 4  # a message each; more would make a stream's chunks wait for them
    cancellation_check_period_s: float = 0.05

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> "SpeechLmSettings":
        """Read the settings by their names; what is not among them keeps its default."""
        kinds = {field.name: type(getattr(cls, field.name)) for field in fields(cls)}
        return cls(**{name: kind(parameters[name]) for name, kind in kinds.items() if name in parameters})


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: temperature, then top_k, then top_p, as in `transformers`.

    Temperature 0 or top_k 1 is greedy; top_k 0 means all. The same seed gives the same tokens on an idle
    engine (in float32 also beside other requests); None draws a new seed.

    Raises:
        InvalidInput: a value is out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10:  # beyond, the grammar's mask would show through
            raise InvalidInput(f"temperature must be between 0 and 10, got {self.temperature}")
        if self.top_k < 0:
            raise InvalidInput(f"top_k must be 0 (all tokens) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InvalidInput(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.repetition_penalty != 1:
            # GenAI looks each prompt id up in the logits, and most prompt ids have no row in the cut head
            raise InvalidInput(
                f"repetition_penalty must be 1 (none) with the CPU engine, got {self.repetition_penalty}"
            )
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise InvalidInput(f"seed must be between 0 and 2**64 - 1, got {self.seed}")

    @property
    def is_greedy(self) -> bool:
        return self.temperature < 1e-6 or self.top_k == 1  # logits over the smallest numbers would be infinite


ACTIVATION_GROUP = 128  # values of an int8 engine's activations that share a scale


def engine_properties(precision: str) -> dict[str, Any]:
    """OpenVINO's settings for an engine with weights of `precision`.

    "int8" quantises activations, too, as they come: only with float32 around it does OpenVINO do that, and multiplies
    8-bit integers. In bfloat16 it would first expand the weights, for every token: measured at 1, 4 and 8 streams,
    36, 72 and 134 tokens/s instead of 49, 145 and 233, for a logit error of 0.056 instead of 0.064.
    "bf16" computes in bfloat16 where the CPU has it; both keep keys and values in 8 bits. "f32" is float32 throughout.
    """
    if precision == "f32":
        return {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    if precision == "int8":
        return {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": ACTIVATION_GROUP}
    return {}


class FinishReason(Enum):
    """Why a generation ended."""

    END_TOKEN = "end_token"
    LENGTH = "length"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True)
class Delivery:
    """New tokens of one generation: ids INT32 [n], the end token among them where it was reached.

    `finish_reason` is None while more is to come; every generation ends with exactly one delivery that has
    one.
    """

    ids: np.ndarray
    finish_reason: FinishReason | None = None
    error: Exception | None = None


class Generation:
    """One request's way through the LM; only the LM's thread touches anything but `cancel`."""

    def __init__(
        self,
        rows: np.ndarray,
        config: genai.GenerationConfig,
        on_delivery: Callable[[Delivery], None],
        is_cancelled: Callable[[], bool],
        streaming: bool,
    ):
        self.rows = rows  # the prompt, int64 [n], in the engine's order
        self.config = config
        self.on_delivery = on_delivery
        self.is_cancelled = is_cancelled
        self.reserved_blocks = -(-(len(rows) + config.max_new_tokens) // TOKENS_PER_KV_BLOCK)
        self.handle: Any = None  # the engine's handle; None while it waits
        self.pending_rows: list[int] = []
        self.next_delivery_tokens = 1 if streaming else config.max_new_tokens
        self.cancel_requested = False

    def cancel(self) -> None:
        """Stop at the next step; the last delivery follows soon. Safe from any thread, at any time."""
        self.cancel_requested = True


class SpeechLm:
    """One thread owns the engine and repeats: take new requests, admit, step, deliver.

    A request is admitted when the KV cache can hold its prompt and its whole budget, so the cache never runs full under
    a running sequence. Callbacks run on the LM's thread, between two steps: they must be quick.

    Args:
        engine_dir: what `build_engines.speech_lm.build_openvino_lm` wrote.
        turns: waited for before each step.
        on_step: told after each step, on the LM's thread, how many generations are running, how many wait for a place,
            and how many tokens it made.
    """

    def __init__(
        self,
        engine_dir: Path,
        settings: SpeechLmSettings | None = None,
        turns: Turns | None = None,
        on_step: Callable[[int, int, int], None] = lambda num_running, num_waiting, num_new_tokens: None,
    ):
        self._engine_dir = engine_dir
        self._settings = settings or SpeechLmSettings()
        self._turns = turns or NoTurns()
        self._on_step = on_step
        self._num_new_tokens = 0
        self._vocabulary = Vocabulary.load(engine_dir / "vocabulary.json")
        self._num_kv_blocks = self._settings.kv_cache_tokens // TOKENS_PER_KV_BLOCK
        max_positions = json.loads((engine_dir / "config.json").read_text())["max_position_embeddings"]
        self.max_sequence_tokens = min(max_positions, self._num_kv_blocks * TOKENS_PER_KV_BLOCK)
        self._pipeline = self._open_pipeline()
        self._inbox: SimpleQueue[Generation | None] = SimpleQueue()  # None: close
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []
        self._num_started = 0
        self._next_cancellation_check_at = 0.0
        self._thread = threading.Thread(target=self._run, name="speech_lm", daemon=True)
        self._thread.start()

    def submit(
        self,
        ids: Sequence[int] | np.ndarray,
        max_new_tokens: int,
        on_delivery: Callable[[Delivery], None],
        *,
        min_new_tokens: int = 0,
        sampling: Sampling | None = None,
        end_id: int | None = None,
        streaming: bool = True,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Generation:
        """Queue a prompt for continuation and return at once. Safe from any thread.

        Args:
            ids: the prompt, [n], as the checkpoint's own token ids.
            max_new_tokens: the budget, the end token included.
            on_delivery: gets the new tokens: the first one at once, then in growing groups; where `streaming` is
                false, all at the end.
            min_new_tokens: the end token is not emitted before so many others.
            end_id: the token that ends the generation; None: exactly max_new_tokens are generated.
            is_cancelled: asked by the LM's thread now and then; true cancels.

        Raises:
            InvalidInput: an argument is out of its range.
        """
        generation = Generation(
            self._prompt_rows(np.asarray(ids), max_new_tokens),
            self._generation_config(max_new_tokens, min_new_tokens, sampling or Sampling(), end_id),
            on_delivery,
            is_cancelled,
            streaming,
        )
        self._inbox.put(generation)
        return generation

    def generate(self, ids: Sequence[int] | np.ndarray, max_new_tokens: int, **options: Any) -> list[int]:
        """As `submit`, but wait for the end and return all new ids.

        Raises:
            InvalidInput: an argument is out of its range.
            RuntimeError: the engine failed.
        """
        deliveries: SimpleQueue[Delivery] = SimpleQueue()
        self.submit(ids, max_new_tokens, deliveries.put, streaming=False, **options)
        delivery = deliveries.get()
        if delivery.error is not None:
            raise delivery.error
        return delivery.ids.tolist()

    def close(self) -> None:
        """Cancel what is running or waiting, deliver its end, and stop the thread."""
        self._inbox.put(None)
        self._thread.join()

    def _open_pipeline(self) -> genai.ContinuousBatchingPipeline:
        scheduler = genai.SchedulerConfig()
        scheduler.num_kv_blocks = self._num_kv_blocks
        scheduler.max_num_seqs = self._settings.max_num_sequences
        scheduler.max_num_batched_tokens = self._settings.max_num_batched_tokens
        # prompts share too little, and a request must not depend on earlier ones
        scheduler.enable_prefix_caching = False
        properties = engine_properties(self._settings.precision)
        properties["INFERENCE_NUM_THREADS"] = self._settings.num_threads
        return genai.ContinuousBatchingPipeline(self._engine_dir, scheduler, "CPU", properties)

    def _prompt_rows(self, ids: np.ndarray, max_new_tokens: int) -> np.ndarray:
        if ids.ndim != 1 or len(ids) == 0:
            raise InvalidInput(f"input_ids must be a list of at least one token, got shape {list(ids.shape)}")
        if ids.min() < 0 or ids.max() >= self._vocabulary.size:
            raise InvalidInput(
                f"input_ids must be between 0 and {self._vocabulary.size - 1}, got {ids.min()} to {ids.max()}"
            )
        if max_new_tokens < 1:
            raise InvalidInput(f"request_output_len must be at least 1, got {max_new_tokens}")
        if len(ids) + max_new_tokens > self.max_sequence_tokens:
            raise InvalidInput(
                f"input_ids and request_output_len must not exceed {self.max_sequence_tokens} tokens together (the "
                f"checkpoint's limit, or parameter kv_cache_tokens), got {len(ids)} and {max_new_tokens}"
            )
        return self._vocabulary.row_of_id[ids]

    def _generation_config(
        self, max_new_tokens: int, min_new_tokens: int, sampling: Sampling, end_id: int | None
    ) -> genai.GenerationConfig:
        if not 0 <= min_new_tokens <= max_new_tokens:
            raise InvalidInput(
                f"min_tokens must be between 0 and request_output_len {max_new_tokens}, got {min_new_tokens}"
            )
        config = genai.GenerationConfig()
        config.apply_chat_template = False
        config.max_new_tokens = max_new_tokens
        config.min_new_tokens = min_new_tokens
        if end_id is None:
            config.ignore_eos = True
        else:
            config.stop_token_ids = {self._end_row(end_id)}
        if not sampling.is_greedy:
            config.do_sample = True
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            if sampling.top_k:
                config.top_k = sampling.top_k
            config.rng_seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        return config

    def _end_row(self, end_id: int) -> int:
        if 0 <= end_id < self._vocabulary.size:
            row = int(self._vocabulary.row_of_id[end_id])
            if row < self._vocabulary.num_emittable:  # GenAI writes to this row's logit without a check
                return row
        raise InvalidInput(f"end_id must be a token that the model can emit, got {end_id}")

    def _run(self) -> None:
        while self._take_new():
            self._drop_cancelled()
            self._admit()
            if self._running:
                self._step()
            self._on_step(len(self._running), len(self._waiting), self._num_new_tokens)
            self._num_new_tokens = 0
        for generation in [*self._waiting, *self._running]:
            self._finish(generation, FinishReason.CANCELLED)

    def _take_new(self) -> bool:
        """Take what was submitted, asleep while there is nothing to do; False: close."""
        is_idle = not self._waiting and not self._running
        try:
            while True:
                generation = self._inbox.get(block=is_idle)
                if generation is None:
                    return False
                self._waiting.append(generation)
                is_idle = False
        except Empty:
            return True

    def _drop_cancelled(self) -> None:
        if time.monotonic() >= self._next_cancellation_check_at:
            self._next_cancellation_check_at = time.monotonic() + self._settings.cancellation_check_period_s
            for generation in [*self._waiting, *self._running]:
                # not `|=`: another thread may set the flag while is_cancelled runs
                if self._guarded(generation, generation.is_cancelled) is not False:
                    generation.cancel()
        for generation in [*self._waiting, *self._running]:
            if generation.cancel_requested:
                self._finish(generation, FinishReason.CANCELLED)

    def _admit(self) -> None:
        """Start waiting requests in their order while sequences and KV blocks last."""
        while self._waiting and len(self._running) < self._settings.max_num_sequences:
            generation = self._waiting[0]
            reserved = sum(running.reserved_blocks for running in self._running)
            if reserved + generation.reserved_blocks > self._num_kv_blocks:
                return
            self._waiting.popleft()
            self._running.append(generation)
            prompt = ov.Tensor(generation.rows[np.newaxis])
            try:
                generation.handle = self._pipeline.add_request(self._num_started, prompt, generation.config)
            except RuntimeError as error:
                logger.exception("the engine refused a request")
                self._finish(generation, FinishReason.FAILED, error)
            self._num_started += 1

    def _step(self) -> None:
        try:
            with self._turns.turn():
                self._pipeline.step()
        except RuntimeError as error:
            # the engine keeps the request that it failed on and would fail again: start anew
            logger.exception("the engine failed; its running requests end and it is loaded again")
            for generation in list(self._running):
                self._finish(generation, FinishReason.FAILED, error)
            self._pipeline = self._open_pipeline()
        for generation in list(self._running):
            self._deliver(generation)

    def _deliver(self, generation: Generation) -> None:
        """Pass on what the step made, in groups that grow: each delivery costs a message to the caller."""
        handle = generation.handle
        while handle.can_read():
            for output in handle.read().values():
                generation.pending_rows += output.generated_ids
                self._num_new_tokens += len(output.generated_ids)
        status = handle.get_status()
        if status == genai.GenerationStatus.RUNNING:
            if len(generation.pending_rows) >= generation.next_delivery_tokens:
                self._send(generation)
        elif status == genai.GenerationStatus.FINISHED:
            ended = generation.pending_rows[-1] in generation.config.stop_token_ids
            self._finish(generation, FinishReason.END_TOKEN if ended else FinishReason.LENGTH)
        else:
            error = RuntimeError(f"the engine gave up a request: {status}")
            self._finish(generation, FinishReason.FAILED, error)

    def _finish(self, generation: Generation, reason: FinishReason, error: Exception | None = None) -> None:
        """Release the generation's place, then make its last delivery."""
        if generation in self._running:
            self._running.remove(generation)
        else:
            self._waiting.remove(generation)
        if generation.handle is not None:
            generation.handle.cancel()
        self._send(generation, reason, error)

    def _send(self, generation: Generation, reason: FinishReason | None = None, error: Exception | None = None) -> None:
        ids = self._vocabulary.id_of_row[generation.pending_rows].astype(np.int32)
        generation.pending_rows.clear()
        generation.next_delivery_tokens = min(
            2 * generation.next_delivery_tokens, self._settings.max_tokens_per_delivery
        )
        self._guarded(generation, lambda: generation.on_delivery(Delivery(ids, reason, error)))

    def _guarded(self, generation: Generation, callback: Callable[[], Any]) -> Any:
        """The callback's result; a caller that raises loses its own generation and nothing else."""
        try:
            return callback()
        except Exception:
            logger.exception("a request's callback failed; the request is cancelled")
            generation.cancel()
            return None
