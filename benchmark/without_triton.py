"""The engines of a model repository driven without Triton: what the server's own cost is measured by."""

import asyncio
import multiprocessing
from collections.abc import AsyncGenerator
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tritone.spark_tts.codec import SemanticEncoder, SpeakerEncoder, Vocoder
from tritone.spark_tts.models import Tensors
from tritone.speech_lm import Delivery, FinishReason, Generation, SpeechLm, SpeechLmSettings
from tritone.speech_lm_request import SpeechLmRequest

_ENGINES: dict[str, Any] = {
    "speaker_encoder": SpeakerEncoder,
    "semantic_encoder": SemanticEncoder,
    "vocoder": Vocoder,
}


def version_dir(repository: Path, model: str) -> Path:
    """Where the artifacts of a model lie."""
    return repository / model / "1"


def read_config(repository: Path, model: str) -> ModelConfig:
    """A model's config.pbtxt."""
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), ModelConfig())


def read_parameters(repository: Path, model: str) -> dict[str, str]:
    """The `parameters` of a model's config.pbtxt."""
    return {name: value.string_value for name, value in read_config(repository, model).parameters.items()}


class DirectInference:
    """Implements `spark_tts.models.Inference` on one event loop.

    Encoders and vocoder run in threads of this process, the language model in a process of its own. Each is loaded
    when it is first called, with the parameters that the server would give it.
    """

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._engines: dict[str, _BatchedEngine] = {}
        self._lm: _LmProcess | None = None

    async def call(self, model: str, inputs: Tensors, outputs: list[str]) -> dict[str, np.ndarray]:
        """One row to an encoder or the vocoder, its one output."""
        if model not in self._engines:
            parameters = read_parameters(self._repository, model)
            engine = _ENGINES[model].load(version_dir(self._repository, model), parameters)
            self._engines[model] = _BatchedEngine(engine, read_config(self._repository, model).max_batch_size)
        (output,) = outputs
        return {output: (await self._engines[model].run(inputs))[np.newaxis]}

    async def stream(
        self, model: str, inputs: Tensors, outputs: list[str], stop: Tensors
    ) -> AsyncGenerator[dict[str, np.ndarray], None]:
        """One request to the language model, what it delivers as it comes; closing the generator cancels it."""
        if self._lm is None:
            self._lm = _LmProcess(
                version_dir(self._repository, model) / "engine", read_parameters(self._repository, model)
            )
        number, deliveries = self._lm.submit(inputs)
        has_ended = False
        try:
            while not has_ended:
                delivery = await deliveries.get()
                has_ended = delivery.finish_reason is not None
                if delivery.error is not None:
                    raise delivery.error
                if len(delivery.ids):
                    length = np.array([len(delivery.ids)], np.int32)
                    yield {"output_ids": delivery.ids[np.newaxis], "sequence_length": length}
        finally:
            if not has_ended:
                self._lm.cancel(number)

    def close(self) -> None:
        """End the language model's process."""
        if self._lm is not None:
            self._lm.close()


class _BatchedEngine:
    """An engine that runs in a thread; rows that wait for it run together, as Triton's dynamic batching has them do."""

    def __init__(self, engine: Any, max_batch_size: int) -> None:
        self._engine = engine
        self._max_batch_size = max_batch_size
        self._waiting: list[tuple[Any, asyncio.Future[np.ndarray]]] = []
        self._working: asyncio.Task[None] | None = None

    async def run(self, inputs: Tensors) -> np.ndarray:
        """What the engine gives for the one row of `inputs`."""
        (row,) = self._engine.rows(inputs)
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._waiting.append((row, answer))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        while self._waiting:
            batch = self._waiting[: self._max_batch_size]
            del self._waiting[: self._max_batch_size]
            rows, answers = zip(*batch, strict=True)
            try:
                results = await asyncio.to_thread(self._engine.run, rows)
            except Exception as error:
                for answer in answers:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for answer, result in zip(answers, results, strict=True):
                if not answer.done():  # cancelled meanwhile
                    answer.set_result(result)


class _LmProcess:
    """A language model in a process of its own, for one event loop.

    In this one, whose lock it would hold during each step, it would slow all other Python down: with 4 streams the
    speech of the same engines took 1.6 times as long.
    """

    def __init__(self, engine_dir: Path, parameters: dict[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, of_process = context.Pipe()
        self._process = context.Process(target=_serve_lm, args=(of_process, engine_dir, parameters), daemon=True)
        self._process.start()
        of_process.close()  # so that its end is seen here
        self._deliveries: list[asyncio.Queue[Delivery]] = []  # by the request's number
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._connection.fileno(), self._receive)

    def submit(self, inputs: Tensors) -> tuple[int, "asyncio.Queue[Delivery]"]:
        """The number of a new request, and where its deliveries come."""
        number, deliveries = len(self._deliveries), asyncio.Queue[Delivery]()
        self._deliveries.append(deliveries)
        self._connection.send((number, dict(inputs)))
        return number, deliveries

    def cancel(self, number: int) -> None:
        """End a request early."""
        self._connection.send((number, None))

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()

    def _receive(self) -> None:
        try:
            while self._connection.poll():
                number, delivery = self._connection.recv()
                self._deliveries[number].put_nowait(delivery)
        except (EOFError, OSError):
            self._loop.remove_reader(self._connection.fileno())
            error = RuntimeError("the language model's process has ended")
            for deliveries in self._deliveries:
                deliveries.put_nowait(Delivery(np.zeros(0, np.int32), FinishReason.FAILED, error))


def _serve_lm(connection: Connection, engine_dir: Path, parameters: dict[str, str]) -> None:
    """What the process of `_LmProcess` does."""
    lm = SpeechLm(engine_dir, SpeechLmSettings.from_parameters(parameters))
    generations: list[Generation] = []

    def deliver(number: int, delivery: Delivery) -> None:
        connection.send((number, delivery))

    with suppress(EOFError):
        while True:
            number, inputs = connection.recv()
            if inputs is None:
                generations[number].cancel()
                continue
            asked = SpeechLmRequest.from_tensors(inputs)
            generations.append(
                lm.submit(
                    asked.ids,
                    asked.max_new_tokens,
                    partial(deliver, number),
                    min_new_tokens=asked.min_new_tokens,
                    sampling=asked.sampling,
                    end_id=asked.end_id,
                    streaming=asked.streaming,
                )
            )
