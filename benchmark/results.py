"""The result of a run: what was measured, where and how, as it is written to a file and read back."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from benchmark.metrics import Figures, Mode, Piece, Request, Slo
from benchmark.server_side import ModelFigures, ServerFigures, Stage

MODES: tuple[Mode, ...] = get_args(Mode)
FORMAT = "tritone-benchmark/1"
MIN_REQUESTS_PER_STREAM = 2
_DECIMALS = 6  # microseconds


class BenchmarkError(Exception):
    """Nothing can be measured or shown; the text says why."""


@dataclass(frozen=True)
class RunSettings:
    """What to measure: each mode at each level, first the numbers of streams, then the rates.

    Attributes:
        concurrency: numbers of streams of the closed loop.
        rates_per_s: requests a second of the open loop.
        num_requests: of each level; None: one pass over the work list, and MIN_REQUESTS_PER_STREAM for each stream.
        duration_s: of each level, instead: nobody begins later, and what runs comes to its end.
        num_warm_up: requests of each stream before a level, left out of everything.
        fixed_tokens: the length of every utterance, instead of what its text takes.
        seed: of a level's first request, one higher for each one after it; of the open loop's arrivals, too.
        timeout_s: of each request.
    """

    modes: tuple[Mode, ...] = MODES
    concurrency: tuple[int, ...] = (1, 2, 4, 8, 16)
    rates_per_s: tuple[float, ...] = ()
    num_requests: int | None = None
    duration_s: float | None = None
    num_warm_up: int = 1
    fixed_tokens: int | None = None
    seed: int = 0
    timeout_s: float = 600.0
    slo: Slo | None = None

    def requests_of(self, num_streams: int, num_utterances: int) -> int | None:
        """How many requests a level takes; None: as many as there is time for."""
        if self.duration_s is not None:
            return None
        return self.num_requests or max(num_utterances, MIN_REQUESTS_PER_STREAM * num_streams)


@dataclass(frozen=True)
class Measurement:
    """One mode at one level, which is either a number of streams or a rate.

    Attributes:
        requests: all but the warm-up's, in the order in which they ended; times are seconds of the run.
        is_complete: False when it was interrupted.
    """

    mode: Mode
    concurrency: int | None
    rate_per_s: float | None
    figures: Figures
    server: ServerFigures | None
    requests: tuple[Request, ...]
    is_complete: bool

    @property
    def level(self) -> str:
        """How tables name it."""
        return f"{self.concurrency}" if self.rate_per_s is None else f"{self.rate_per_s:g}/s"


@dataclass(frozen=True)
class Timeline:
    """One streamed request, alone on the server; times are seconds from its sending.

    Attributes:
        tokens: how many tokens the language model had made by when, (seconds, number); empty where the server's
            metrics were out of reach.
    """

    request: Request
    stages: tuple[Stage, ...]
    tokens: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Run:
    """A whole run."""

    environment: Mapping[str, Any]
    settings: RunSettings
    worklist: str
    measurements: tuple[Measurement, ...]
    timeline: Timeline | None
    format: str = FORMAT

    def save(self, path: Path) -> None:
        """Write it as JSON, with every request's times."""
        path.write_text(json.dumps(_rounded(dataclasses.asdict(self))) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Run":
        """Read what `save` wrote; the figures are computed anew from the requests.

        Raises:
            BenchmarkError: it is no such file.
        """
        try:
            fields = json.loads(path.read_text())
            if fields.get("format") != FORMAT:
                raise ValueError(f'it does not say "format": "{FORMAT}"')
            settings = _settings(fields["settings"])
            return cls(
                environment=fields["environment"],
                settings=settings,
                worklist=fields["worklist"],
                measurements=tuple(_measurement(entry, settings.slo) for entry in fields["measurements"]),
                timeline=None if fields["timeline"] is None else _timeline(fields["timeline"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BenchmarkError(f"{path} is no result of `benchmark run`: {error}") from error


def _settings(fields: dict[str, Any]) -> RunSettings:
    slo = None if fields["slo"] is None else Slo(**fields["slo"])
    sequences = {name: tuple(fields[name]) for name in ("modes", "concurrency", "rates_per_s")}
    return RunSettings(**{**fields, **sequences, "slo": slo})


def _measurement(fields: dict[str, Any], slo: Slo | None) -> Measurement:
    requests = tuple(map(_request, fields["requests"]))
    server = None
    if fields["server"] is not None:
        models = tuple(ModelFigures(**model) for model in fields["server"]["models"])
        server = ServerFigures(**{**fields["server"], "models": models})
    return Measurement(**{**fields, "requests": requests, "server": server, "figures": Figures.of(requests, slo)})


def _timeline(fields: dict[str, Any]) -> Timeline:
    return Timeline(
        request=_request(fields["request"]),
        stages=tuple(Stage(**stage) for stage in fields["stages"]),
        tokens=tuple((at_s, num_tokens) for at_s, num_tokens in fields["tokens"]),
    )


def _request(fields: dict[str, Any]) -> Request:
    return Request(**{**fields, "pieces": tuple(Piece(**piece) for piece in fields["pieces"])})


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DECIMALS)
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return value
