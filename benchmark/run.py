"""`python -m benchmark run`: a server under load, level by level, as its clients see it."""

import asyncio
import dataclasses
import itertools
import platform
import shlex
import sys
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import grpc
import numpy as np
import psutil
from tqdm import tqdm
from tritone_client import AsyncTritone, ReferenceVoice, Sampling, Tls, TritoneError

from benchmark.load import Job, closed_loop, open_loop
from benchmark.metrics import Figures, Mode, Piece, Request
from benchmark.report import processor_name
from benchmark.results import BenchmarkError, Measurement, Run, RunSettings, Timeline
from benchmark.server_side import ServerFigures, ServerSide, Stage
from benchmark.worklists import Utterance

TIMELINE_PERIOD_S = 0.01
LM_TOKENS = "tritone_lm_tokens_total"
# A little quieter it is the same voice to the model, which evens out the volume, and a new one to the server's cache.
NEW_REFERENCE_GAIN = np.float32(0.99)
PACKAGES = ("tritone", "tritone-client", "tritonclient", "grpcio", "openvino", "openvino-genai")


class LoadGenerator:
    """Puts one server under load.

    Args:
        utterances: at least one; a level says them in turn, over and over.
    """

    def __init__(
        self, client: AsyncTritone, server: ServerSide, settings: RunSettings, utterances: Sequence[Utterance]
    ) -> None:
        self._client = client
        self._server = server
        self._settings = settings
        self._utterances = utterances
        self._begin_s = time.perf_counter()

    async def try_once(self) -> None:
        """Say the first utterance, and throw it away.

        Raises:
            BenchmarkError: the server refuses it.
        """
        for mode in self._settings.modes:
            try:
                async with aclosing(self._speak(mode, self._utterances[0], seed=0)) as pieces:
                    async for _ in pieces:
                        pass
            except TritoneError as error:
                raise BenchmarkError(
                    f"the server does not say {self._utterances[0].id} ({mode}): {error} ({error.status})"
                ) from error

    async def measure(self, measurements: list[Measurement], progress: tqdm) -> None:
        """Append a measurement for each mode and level; one that is cancelled is there with what it has."""
        closed = [(num_streams, None) for num_streams in self._settings.concurrency]
        opened = [(None, rate_per_s) for rate_per_s in self._settings.rates_per_s]
        for mode, (num_streams, rate_per_s) in itertools.product(self._settings.modes, [*closed, *opened]):
            progress.set_description(f"{mode}, {f'{rate_per_s:g}/s' if num_streams is None else num_streams}")
            requests: list[Request] = []
            figures: list[ServerFigures] = []
            is_complete = False
            try:
                await self._measure_level(mode, num_streams, rate_per_s, requests, figures, progress)
                is_complete = True
            finally:
                if requests:
                    measurements.append(
                        Measurement(
                            mode=mode,
                            concurrency=num_streams,
                            rate_per_s=rate_per_s,
                            figures=Figures.of(requests, self._settings.slo),
                            server=figures[0] if figures else None,
                            requests=tuple(self._in_run_time(request, self._begin_s) for request in requests),
                            is_complete=is_complete,
                        )
                    )

    async def timeline(self) -> Timeline:
        """One stream alone, and what the server does for it; a reference is sent as one that it does not know."""
        utterance = self._utterances[0]
        if isinstance(utterance.voice, ReferenceVoice):
            waveform = utterance.voice.waveform * NEW_REFERENCE_GAIN
            utterance = dataclasses.replace(utterance, voice=dataclasses.replace(utterance.voice, waveform=waveform))
        requests: list[Request] = []
        stages: list[Stage] = []
        tokens: list[tuple[float, float]] = []
        watchers = [
            asyncio.ensure_future(self._server.stages(TIMELINE_PERIOD_S, stages)),
            asyncio.ensure_future(self._count_tokens(tokens)),
        ]
        try:
            await asyncio.sleep(10 * TIMELINE_PERIOD_S)  # so that both know what was before
            await closed_loop(itertools.islice(self._jobs("stream", [utterance]), 1), 1, requests.append)
            await asyncio.sleep(10 * TIMELINE_PERIOD_S)
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.wait(watchers)
        (request,) = requests
        sent_at_s = request.sent_at_s
        return Timeline(
            request=self._in_run_time(request, sent_at_s),
            stages=tuple(
                dataclasses.replace(stage, begin_s=stage.begin_s - sent_at_s, end_s=stage.end_s - sent_at_s)
                for stage in stages
            ),
            tokens=tuple((at_s - sent_at_s, number - tokens[0][1]) for at_s, number in tokens),
        )

    async def _measure_level(
        self,
        mode: Mode,
        num_streams: int | None,
        rate_per_s: float | None,
        requests: list[Request],
        figures: list[ServerFigures],
        progress: tqdm,
    ) -> None:
        def record(request: Request) -> None:
            requests.append(request)
            progress.update()
            if request.message is not None:
                progress.write(f"{request.utterance}: {request.message} ({request.error})", file=sys.stderr)

        settings = self._settings
        num_warm_up = settings.num_warm_up * (num_streams or 1)
        await closed_loop(itertools.islice(self._jobs(mode), num_warm_up), num_streams or 1, _forget)
        num_requests = settings.requests_of(num_streams or 1, len(self._utterances))
        jobs = itertools.islice(self._jobs(mode), num_requests)
        duration_s = float("inf") if settings.duration_s is None else settings.duration_s
        async with self._server.observed(figures):
            if num_streams is not None:
                await closed_loop(jobs, num_streams, record, duration_s)
            elif rate_per_s is not None:
                await open_loop(jobs, rate_per_s, settings.seed, record, duration_s)

    def _jobs(self, mode: Mode, utterances: Iterable[Utterance] | None = None) -> Iterator[Job]:
        """Endlessly, each with a seed of its own."""
        for index, utterance in enumerate(itertools.cycle(utterances or self._utterances)):
            seed = self._settings.seed + index
            yield Job(utterance.id, lambda utterance=utterance, seed=seed: self._speak(mode, utterance, seed))  # type: ignore[misc]

    async def _speak(self, mode: Mode, utterance: Utterance, seed: int) -> AsyncGenerator[float, None]:
        """The seconds of audio of each piece."""
        sampling = Sampling(seed=seed)
        if self._settings.fixed_tokens is not None:
            sampling["fixed_tokens"] = self._settings.fixed_tokens
        if mode == "whole":
            yield (await self._client.synthesize(utterance.text, voice=utterance.voice, **sampling)).duration_s
            return
        async with aclosing(self._client.stream(utterance.text, voice=utterance.voice, **sampling)) as pieces:
            async for piece in pieces:
                yield piece.duration_s

    async def _count_tokens(self, tokens: list[tuple[float, float]]) -> None:
        """Append when how many tokens the language model has made, until cancelled or there is no such counter."""
        while (number := await self._server.counter(LM_TOKENS)) is not None:
            tokens.append((time.perf_counter(), number))
            await asyncio.sleep(TIMELINE_PERIOD_S)

    @staticmethod
    def _in_run_time(request: Request, begin_s: float) -> Request:
        return dataclasses.replace(
            request,
            scheduled_at_s=request.scheduled_at_s - begin_s,
            sent_at_s=request.sent_at_s - begin_s,
            pieces=tuple(Piece(piece.arrived_at_s - begin_s, piece.audio_s) for piece in request.pieces),
            ended_at_s=request.ended_at_s - begin_s,
        )


async def measure_run(
    url: str,
    metrics_url: str | None,
    settings: RunSettings,
    worklist: str,
    utterances: Sequence[Utterance],
    tls: Tls | None = None,
) -> Run:
    """Put the server at `url` under load. A request that it refuses is not sent again.

    Being cancelled (Ctrl-C) ends it early; what was measured until then is returned all the same.

    Raises:
        BenchmarkError: the server does not answer, or refuses what it is asked for.
    """
    measurements: list[Measurement] = []
    timeline = None
    async with (
        AsyncTritone(url, timeout_s=settings.timeout_s, tls=tls, num_retries=0) as client,
        ServerSide(url, metrics_url, tls) as server,
    ):
        try:
            environment = _environment(await server.describe())
        except grpc.RpcError as error:
            raise BenchmarkError(f"no Triton server answers at {url}: {error.details()}") from error
        generator = LoadGenerator(client, server, settings, utterances)
        await generator.try_once()
        with (
            suppress(asyncio.CancelledError),
            tqdm(total=_num_requests(settings, len(utterances)), unit="request") as bar,
        ):
            await generator.measure(measurements, bar)
            if "stream" in settings.modes:
                timeline = await generator.timeline()
    return Run(environment, settings, worklist, tuple(measurements), timeline)


def _num_requests(settings: RunSettings, num_utterances: int) -> int | None:
    """Of all levels; None where time bounds them."""
    levels = [*settings.concurrency, *(1 for _ in settings.rates_per_s)]
    numbers = [settings.requests_of(num_streams, num_utterances) for num_streams in levels]
    return None if None in numbers else len(settings.modes) * sum(number or 0 for number in numbers)


def _environment(server: dict[str, Any]) -> dict[str, Any]:
    """Where and with what a run was made. The machine is this one, which need not be the server's."""
    packages = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            packages[package] = version(package)
    return {
        "began_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmark", *sys.argv[1:]]),
        "machine": {
            "processor": processor_name(),
            "num_cores": psutil.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "system": platform.platform(),
        },
        "python": platform.python_version(),
        "packages": packages,
        **server,
    }


def _forget(_: Request) -> None:
    """What to do with a warm-up."""
