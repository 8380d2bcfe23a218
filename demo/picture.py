"""The picture of what was said: one spectrogram a scene, with the texts where they are heard."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_WINDOW_SAMPLES, _HOP_SAMPLES = 640, 160  # 40 ms: the harmonics of 80 Hz are apart
_HIGHEST_HZ = 4000
_DYNAMIC_RANGE_DB = 60
_WIDTH_INCHES, _ROW_INCHES, _DOTS_PER_INCH = 13, 2.2, 90


@dataclass(frozen=True)
class Caption:
    """What is heard from `begin_s` on."""

    begin_s: float
    text: str
    label: str


@dataclass(frozen=True)
class Row:
    """One spectrogram: float32 samples [n] with captions."""

    title: str
    waveform: np.ndarray
    captions: Sequence[Caption]


def draw(rows: Sequence[Row], sample_rate_hz: int, path: Path) -> None:
    """Write the picture as a PNG; all rows have one scale of time."""
    figure = Figure(figsize=(_WIDTH_INCHES, _ROW_INCHES * len(rows)), dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    longest_s = max(len(row.waveform) for row in rows) / sample_rate_hz
    for axes, row in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows, strict=True):
        powers, *_, image = axes.specgram(
            row.waveform + 1e-9,  # silence has a logarithm too
            NFFT=_WINDOW_SAMPLES,
            noverlap=_WINDOW_SAMPLES - _HOP_SAMPLES,
            Fs=sample_rate_hz,
            cmap="magma",
        )
        loudest_db = 10 * np.log10(powers.max())
        image.set_clim(loudest_db - _DYNAMIC_RANGE_DB, loudest_db)
        axes.set(xlim=(0, longest_s), ylim=(0, _HIGHEST_HZ), ylabel="Hz")
        axes.set_title(row.title, loc="left", fontsize=10, fontweight="bold", pad=26)
        axes.spines[["top", "right"]].set_visible(False)
        for caption in row.captions:
            axes.annotate(
                f"{caption.text}\n{caption.label}",
                (caption.begin_s, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                fontsize=6.5,
                va="bottom",
            )
            axes.axvline(caption.begin_s, color="white", linewidth=0.5, alpha=0.5)
    axes.set_xlabel("seconds")
    figure.savefig(path)
