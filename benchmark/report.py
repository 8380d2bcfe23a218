"""How the benchmarks show their figures."""

import csv
import dataclasses
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.metrics import Distribution, Figures
from benchmark.results import BenchmarkError, Measurement, Run

DATA_DIR = Path(__file__).resolve().parent / "data"
PUBLISHED_L20 = DATA_DIR / "published_l20.json"
UNKNOWN = "-"
BEGIN_MARK = "<!-- measured: begin; written by `make table` -->"
END_MARK = "<!-- measured: end -->"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        return "  ".join([first.strip().ljust(widths[0]), *others])

    return "\n".join(map(line, (header, *rows)))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same for a README."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


@dataclass(frozen=True)
class Column:
    """One figure in a table: its name with its unit, how it is written, and whether it says nothing of whole speech."""

    name: str
    text: Callable[[Figures], str]
    is_of_streams: bool = False


def _ms(distribution: Distribution | None, which: str) -> str:
    return UNKNOWN if distribution is None else f"{1000 * getattr(distribution, which):.0f}"


def _number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)


_LATENCY = [
    Column("latency ms", lambda figures: _ms(figures.latency_s, "mean")),
    *(Column(p.upper(), lambda figures, p=p: _ms(figures.latency_s, p)) for p in ("p50", "p90", "p99")),  # type: ignore[misc]
]
_FIRST_AUDIO = [
    Column("first audio P50 ms", lambda figures: _ms(figures.first_audio_s, "p50"), is_of_streams=True),
    *(
        Column(p.upper(), lambda figures, p=p: _ms(figures.first_audio_s, p), is_of_streams=True)  # type: ignore[misc]
        for p in ("p90", "p99")
    ),
]
_RTF = Column("RTF", lambda figures: _number(figures.rtf, ".4f"))
_STREAMS = [
    Column("starving", lambda figures: _number(figures.starving_share, ".0%"), is_of_streams=True),
    Column("pre-buffer P99 ms", lambda figures: _ms(figures.safe_prebuffer_s, "p99"), is_of_streams=True),
]
_REQUESTS = Column("requests", lambda figures: str(figures.num_requests))
_ERRORS = Column("errors", lambda figures: str(sum(figures.errors.values())))
_GOODPUT = Column("goodput/s", lambda figures: _number(figures.goodput_per_s, ".2f"))


def run_table(run: Run, beside: "PublishedTable | None") -> tuple[list[str], list[list[str]]]:
    """Header and rows of a run in the published recipe's shape; the rows of `beside` have a star."""
    columns = [_REQUESTS, _ERRORS, *_LATENCY, *_FIRST_AUDIO, _RTF, *_STREAMS]
    columns += [_GOODPUT] if run.settings.slo is not None else []
    rows = [_row(measurement, columns) for measurement in run.measurements]
    if beside is not None:
        rows += [_published_row(level, columns) for level in beside.levels]
    return ["mode", "concurrency", *(column.name for column in columns)], rows


def print_run(run: Run, beside: "PublishedTable | None") -> None:
    """The tables of a run, for a terminal."""
    print(f"\n{describe(run)}\n")
    print(table(*run_table(run, beside)))
    if beside is not None:
        print(f"* {beside.title}; {beside.source}")
    for measurement in run.measurements:
        if measurement.figures.errors:
            errors = ", ".join(f"{number} {kind}" for kind, number in measurement.figures.errors.items())
            print(f"{measurement.mode}, {measurement.level}: {errors}")
    if not all(measurement.is_complete for measurement in run.measurements):
        print("The last level was interrupted.")
    print()
    print(table(*server_table(run)))


def describe(run: Run) -> str:
    """One line: what was measured, where and with what."""
    environment = run.environment
    machine = environment["machine"]
    precision = ", ".join(f"{model} {name}" for model, name in environment["precision"].items())
    length = "" if run.settings.fixed_tokens is None else f", each of {run.settings.fixed_tokens} tokens"
    place = "on this machine" if environment["is_on_this_machine"] else "on another machine"
    return (
        f"{environment['server']} {place}; checkpoint {environment['checkpoint'] or 'unknown'}; "
        f"precisions asked for: {precision or 'unknown'}; "
        f"client: {machine['processor']}, {machine['num_cores']} cores; work list {run.worklist}{length}; "
        f"{environment['began_at']}"
    )


def server_table(run: Run) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what the server said of itself."""
    header = [
        "model",
        "mode",
        "concurrency",
        "requests",
        "failed",
        "batch",
        "queue ms",
        "compute ms",
        "cores",
        "memory MB",
    ]
    rows = []
    for measurement in run.measurements:
        if measurement.server is None:
            continue
        processes = [_number(measurement.server.cpu_cores, ".2f"), _number(measurement.server.memory_mb, ".0f")]
        for model in measurement.server.models:
            counts = [str(model.num_requests), str(model.num_failed), f"{model.mean_batch_size:.2f}"]
            times = [f"{1000 * model.queue_s:.1f}", f"{1000 * model.compute_s:.1f}"]
            rows.append([model.model, measurement.mode, measurement.level, *counts, *times, *processes])
            processes = ["", ""]  # of all models together
    return header, rows


def readme_table(run: Run) -> str:
    """The table of the README, in Markdown, and under it what was measured where; without interrupted levels."""
    throughput = Column("audio s/s", lambda figures: f"{figures.audio_s_per_s:.2f}")
    columns = [*_LATENCY, *_FIRST_AUDIO, _RTF, throughput, _ERRORS]
    rows = [_row(measurement, columns) for measurement in run.measurements if measurement.is_complete]
    return f"{markdown_table(['mode', 'concurrency', *(column.name for column in columns)], rows)}\n\n{describe(run)}"


def write_into(path: Path, text: str) -> None:
    """Put `text` between the two marks of a Markdown file.

    Raises:
        BenchmarkError: the file has not exactly one of each.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN_MARK)
    _, end, after = rest.partition(END_MARK)
    if not (begin and end) or BEGIN_MARK in rest or END_MARK in after:
        raise BenchmarkError(f"{path} needs the lines {BEGIN_MARK} and {END_MARK}, once each")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


@dataclass(frozen=True)
class PublishedLevel:
    """A row of somebody else's table; None: not published."""

    mode: str
    concurrency: int
    latency_mean_s: float
    first_audio_p50_s: float | None
    rtf: float


@dataclass(frozen=True)
class PublishedTable:
    """Somebody else's figures, which come from another machine."""

    title: str
    source: str
    levels: tuple[PublishedLevel, ...]

    @classmethod
    def load(cls, path: Path) -> "PublishedTable":
        fields = json.loads(path.read_text())
        return cls(fields["title"], fields["source"], tuple(PublishedLevel(**level) for level in fields["levels"]))


def _row(measurement: Measurement, columns: Sequence[Column]) -> list[str]:
    def cell(column: Column) -> str:
        is_meant = measurement.mode == "stream" or not column.is_of_streams
        return column.text(measurement.figures) if is_meant else UNKNOWN

    return [measurement.mode, measurement.level, *map(cell, columns)]


def _published_row(level: PublishedLevel, columns: Sequence[Column]) -> list[str]:
    first_audio_s = level.first_audio_p50_s
    known = {
        _LATENCY[0].name: f"{1000 * level.latency_mean_s:.0f}",
        _FIRST_AUDIO[0].name: UNKNOWN if first_audio_s is None else f"{1000 * first_audio_s:.0f}",
        _RTF.name: f"{level.rtf:.4f}",
    }
    return [f"{level.mode} *", str(level.concurrency), *(known.get(column.name, UNKNOWN) for column in columns)]


def write_csv(run: Run, levels_path: Path, requests_path: Path) -> None:
    """Two files: a row for each level with its figures, and one for each request with its times."""
    levels = []
    for measurement in run.measurements:
        figures = dataclasses.asdict(measurement.figures)
        levels.append({"mode": measurement.mode, "level": measurement.level, **_flat(figures)})
    _write_rows(levels_path, levels)
    _write_rows(
        requests_path,
        [
            {
                "mode": measurement.mode,
                "level": measurement.level,
                "utterance": request.utterance,
                "scheduled_at_s": request.scheduled_at_s,
                "sent_at_s": request.sent_at_s,
                "first_audio_at_s": request.pieces[0].arrived_at_s if request.pieces else None,
                "ended_at_s": request.ended_at_s,
                "audio_s": request.audio_s,
                "num_pieces": len(request.pieces),
                "error": request.error,
            }
            for measurement in run.measurements
            for request in measurement.requests
        ],
    )


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries as one, with joined names: `latency_s` of p50 is `latency_s_p50`."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "errors":
            flat[name] = " ".join(f"{kind}:{number}" for kind, number in value.items())
        elif isinstance(value, dict):
            flat |= {f"{name}_{key}": entry for key, entry in value.items()}
        else:
            flat[name] = value
    return flat


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, figures: Any) -> None:
    """Write a dataclass, and those within it, with its fields and what it computes from them (its properties)."""
    path.write_text(json.dumps(figures, default=_fields_and_properties, indent=2))


def processor_name() -> str:
    """What the processor calls itself."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _fields_and_properties(value: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(value)]
    names += [name for name, member in vars(type(value)).items() if isinstance(member, property)]
    return {name: getattr(value, name) for name in names if not name.startswith("_")}
