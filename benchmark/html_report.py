"""One HTML file that shows a run: tables, plots and the timeline of one request; it loads nothing from elsewhere."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmark.metrics import Mode, answered
from benchmark.report import PublishedTable, run_table, server_table
from benchmark.results import MODES, Measurement, Run, Timeline

TEMPLATE = Path(__file__).with_name("report.html.jinja")
COLORS: dict[Mode, str] = {"stream": "tab:blue", "whole": "tab:orange"}
FIRST_AUDIO_COLOR = "tab:green"
SIZE_INCHES = (6.4, 4.0)
TIMELINE_SIZE_INCHES = (13.0, 4.5)


def write_html(run: Run, path: Path, beside: PublishedTable | None) -> None:
    """Write the report of a run; with `beside`, somebody else's figures are shown next to its own."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    path.write_text(
        template.render(
            run=run,
            results=run_table(run, beside),
            server=server_table(run),
            beside=beside,
            plots=_plots(run, beside),
            timeline=None if run.timeline is None else _svg(_draw_timeline, run.timeline, size=TIMELINE_SIZE_INCHES),
        ),
        encoding="utf-8",
    )


def _plots(run: Run, beside: PublishedTable | None) -> list[tuple[str, Markup]]:
    """Titles and pictures: those that the run has figures for."""
    with_waits = [measurement for measurement in run.measurements if measurement.figures.latency_s is not None]
    closed = [measurement for measurement in with_waits if measurement.concurrency is not None]
    opened = [measurement for measurement in with_waits if measurement.rate_per_s is not None]
    plots = []
    if closed:
        plots.append(("Waits against concurrency", _svg(_draw_waits, closed, beside)))
        plots.append(("Real-time factor against concurrency", _svg(_draw_rtf, closed, beside)))
    if with_waits:
        plots.append(("Throughput against latency", _svg(_draw_throughput, with_waits)))
    if opened and run.settings.slo is not None:
        plots.append(("Goodput against offered rate", _svg(_draw_goodput, opened)))
    if streamed := [measurement for measurement in with_waits if measurement.mode == "stream"]:
        plots.append(("First audio: the share of requests that have it", _svg(_draw_first_audio, streamed)))
    return plots


def _svg(draw: Callable[..., None], *arguments: object, size: tuple[float, float] = SIZE_INCHES) -> Markup:
    figure = Figure(figsize=size, layout="constrained")
    draw(figure.add_subplot(), *arguments)
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    svg = text.getvalue()
    return Markup(svg[svg.index("<svg") :])  # without the XML header, which HTML has no use for


def _of_mode(measurements: Sequence[Measurement], mode: Mode) -> list[Measurement]:
    return [measurement for measurement in measurements if measurement.mode == mode]


def _draw_waits(axes: Axes, closed: Sequence[Measurement], beside: PublishedTable | None) -> None:
    def draw(mode: Mode, wait: str, percentile: str, style: str, color: str, label: str) -> None:
        points = [(m.concurrency, getattr(getattr(m.figures, wait), percentile)) for m in _of_mode(closed, mode)]
        if points:
            axes.plot(*_columns(points), style, color=color, label=label)

    for mode in MODES:
        draw(mode, "latency_s", "p50", "o-", COLORS[mode], f"latency P50, {mode}")
    draw("stream", "first_audio_s", "p50", "s-", FIRST_AUDIO_COLOR, "first audio P50")
    draw("stream", "first_audio_s", "p99", "s:", FIRST_AUDIO_COLOR, "first audio P99")
    if beside is not None:
        published = [(level.concurrency, level.first_audio_p50_s) for level in beside.levels if level.mode == "stream"]
        axes.plot(*_columns(published), "x--", color="gray", label="first audio P50, published")
    axes.set(xlabel="concurrent requests", ylabel="seconds", xscale="log", yscale="log")
    _finish(axes, [measurement.concurrency or 0 for measurement in closed])


def _draw_rtf(axes: Axes, closed: Sequence[Measurement], beside: PublishedTable | None) -> None:
    for mode in MODES:
        points = [(m.concurrency, m.figures.rtf) for m in _of_mode(closed, mode)]
        axes.plot(*_columns(points), "o-", color=COLORS[mode], label=mode)
        if beside is not None:
            published = [(level.concurrency, level.rtf) for level in beside.levels if level.mode == mode]
            axes.plot(*_columns(published), "x--", color=COLORS[mode], alpha=0.5, label=f"{mode}, published")
    axes.set(xlabel="concurrent requests", ylabel="wall time / audio", xscale="log", yscale="log")
    _finish(axes, [measurement.concurrency or 0 for measurement in closed])


def _draw_throughput(axes: Axes, measurements: Sequence[Measurement]) -> None:
    for mode in MODES:
        for line, is_open in (("o-", False), ("s--", True)):
            points = []
            for measurement in _of_mode(measurements, mode):
                latency_s = measurement.figures.latency_s
                if latency_s is not None and (measurement.concurrency is None) == is_open:
                    points.append((latency_s.p50, measurement.figures.audio_s_per_s))
                    axes.annotate(measurement.level, points[-1], xytext=(4, 4), textcoords="offset points", fontsize=8)
            if points:
                label = f"{mode}, {'open' if is_open else 'closed'} loop"
                axes.plot(*_columns(points), line, color=COLORS[mode], label=label)
    axes.set(xlabel="latency P50, s", ylabel="audio seconds per second")
    _finish(axes)


def _draw_goodput(axes: Axes, opened: Sequence[Measurement]) -> None:
    for mode in MODES:
        points = [(m.rate_per_s, m.figures.goodput_per_s) for m in _of_mode(opened, mode)]
        axes.plot(*_columns(points), "o-", color=COLORS[mode], label=mode)
    offered = sorted({measurement.rate_per_s or 0.0 for measurement in opened})
    axes.plot(offered, offered, ":", color="gray", label="all good")
    axes.set(xlabel="offered requests per second", ylabel="requests per second that kept the SLO")
    _finish(axes)


def _draw_first_audio(axes: Axes, streamed: Sequence[Measurement]) -> None:
    for measurement in streamed:
        waits_s = sorted(request.first_audio_s for request in answered(measurement.requests))
        shares = np.arange(1, len(waits_s) + 1) / len(waits_s)
        axes.step(waits_s, shares, where="post", label=measurement.level)
    axes.set(xlabel="seconds", ylabel="share of requests", ylim=(0, 1.02), xlim=(0, None))
    _finish(axes)


def _draw_timeline(axes: Axes, timeline: Timeline) -> None:
    """A row for each model that worked, then what the client heard; the language model's tokens as a line over it."""
    models = list(dict.fromkeys(stage.model for stage in timeline.stages))
    rows = [*models, "audio that came", "audio that plays"]
    for row, name in enumerate(rows):
        own = [stage for stage in timeline.stages if stage.model == name]
        axes.broken_barh([(stage.begin_s, max(0.005, stage.end_s - stage.begin_s)) for stage in own], (row - 0.35, 0.7))
    request = timeline.request
    arrived = [piece.arrived_at_s for piece in request.pieces]
    axes.plot(arrived, [rows.index("audio that came")] * len(arrived), "k|", markersize=14)
    plays_s, bars = 0.0, []
    for piece in request.pieces:
        plays_s = max(plays_s, piece.arrived_at_s)
        bars.append((plays_s, piece.audio_s))
        plays_s += piece.audio_s
    axes.broken_barh(bars, (rows.index("audio that plays") - 0.35, 0.7), color="tab:green", edgecolor="white")
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlabel("seconds since the request was sent")
    axes.set_xlim(0, None)
    if timeline.tokens:
        tokens = axes.twinx()
        tokens.plot(*_columns(timeline.tokens), color="tab:red")
        tokens.set_ylabel("tokens of the language model", color="tab:red")


def _columns(points: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Points [n, 2] as [2, n]: what is unknown becomes NaN, which is not drawn."""
    return np.array(points, float).reshape(-1, 2).T


def _finish(axes: Axes, ticks: Sequence[int] = ()) -> None:
    if ticks:
        axes.set_xticks(sorted(set(ticks)), [str(tick) for tick in sorted(set(ticks))])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
