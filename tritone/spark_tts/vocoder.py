"""The vocoder: tokens to samples, any stretch of an utterance, in windows of a few fixed sizes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tritone.engines import Array, Engine, open_engine, run_together, uses_tensorrt
from tritone.turns import NoTurns, Turns

# In frames, one frame a token. On a CPU fixed sizes run three to four times as fast as free ones, on a GPU they let
# windows of different requests run together. Larger ones spend a smaller share on context, and each takes memory.
WAVE_WINDOW_SIZES = (32, 64, 128, 192)


def full_stretches(wave_field: int) -> list[int]:
    """How many tokens fill each window, with `wave_field` frames of context on both sides."""
    return [size - 2 * wave_field for size in WAVE_WINDOW_SIZES if size > 2 * wave_field]


@dataclass(frozen=True)
class VocoderRow:
    """Global tokens INT32 [32] and semantic tokens INT32 [m]; the samples of tokens [begin, end) are wanted."""

    global_tokens: np.ndarray
    semantic_tokens: np.ndarray
    begin: int
    end: int


@dataclass(frozen=True)
class _Window:
    """The samples of a part's frames [begin, end), made of `size` frames: these and so many on both sides."""

    part: int
    begin: int
    end: int
    size: int


class VocoderEngine:
    """Two engines in a row: features of a token each, then the wave generator.

    The first half sees far but costs little, so it runs on all the tokens it is given, or on as many as its engine
    takes. The wave generator costs nearly everything and sees `wave_field` frames to each side: it runs on windows of
    the wanted stretch with that context, padded to the next of some fixed sizes behind a mask. The samples equal those
    of the whole utterance up to rounding, and the wave generator's memory does not grow with its length.
    """

    def __init__(
        self,
        features: Engine,
        waves: Mapping[int, Engine],
        receptive_field: int,
        wave_field: int,
        max_batch: int,
        turns: Turns | None = None,
    ) -> None:
        """
        Args:
            waves: the wave generator for each size of windows, in frames, ascending.
            receptive_field: how many tokens on each side a sample depends on ...
            wave_field: ... and on how many frames in the wave generator.
            max_batch: how many rows, or windows, run together.
            turns: waited for before each of these runs.

        Raises:
            ValueError: the largest window, or the most tokens that `features` takes, leave no room for one between two
                contexts.
        """
        if features.max_length is not None and features.max_length <= 2 * receptive_field:
            raise ValueError(f"vocoder_features must take over {2 * receptive_field} tokens (two contexts)")
        if max(waves) <= 2 * wave_field:
            raise ValueError(
                f"the largest window must have over {2 * wave_field} frames (two contexts): {tuple(waves)}"
            )
        self._features = features
        self._waves = waves
        self._receptive_field = receptive_field
        self._wave_field = wave_field
        self._max_batch = max_batch
        self._turns = turns or NoTurns()
        self._device = features.device

    @classmethod
    def open(
        cls,
        engine_dir: Path,
        receptive_field: int,
        wave_field: int,
        parameters: Mapping[str, str],
        turns: Turns | None = None,
    ) -> "VocoderEngine":
        """The engines that `build_engines` wrote into a folder, as the parameters of the model's config.pbtxt say.

        Raises:
            as `open_engine`.
        """
        # phases can be among them: in bf16 the demo voice's were rounded to a noise 22 dB below the speech
        features = open_engine(engine_dir, "vocoder_features", {**parameters, "precision": "f32"})
        if uses_tensorrt(parameters):
            plan = open_engine(engine_dir, "vocoder_waves", parameters)
            waves: Mapping[int, Engine] = dict.fromkeys(WAVE_WINDOW_SIZES, plan)
            return cls(features, waves, receptive_field, wave_field, plan.max_batch or 1, turns)
        from tritone.openvino_engine import OpenVinoEngine, served_precision

        shapes = [{"features": [1, size], "mask": [1, size]} for size in WAVE_WINDOW_SIZES]
        path, num_threads = engine_dir / "vocoder_waves.xml", int(parameters["num_threads"])
        engines = OpenVinoEngine.of_shapes(path, served_precision(parameters), num_threads, shapes)
        waves = dict(zip(WAVE_WINDOW_SIZES, engines, strict=True))
        return cls(features, waves, receptive_field, wave_field, 1, turns)  # batches gained nothing on a CPU

    def decode(self, rows: Sequence[VocoderRow]) -> list[np.ndarray]:
        """Samples FP32 [samples_per_token (end - begin)] of each row; equal windows run together."""
        parts = [(index, part) for index, row in enumerate(rows) for part in self._parts(row)]
        pieces: list[list[np.ndarray]] = [[] for _ in rows]
        with self._device.work():
            features = run_together(
                [part for _, part in parts],
                lambda part: len(part.semantic_tokens),
                self._run_features,
                self._max_batch,
            )
            windows = [window for number, (_, part) in enumerate(parts) for window in self._windows(number, part)]
            waveforms = run_together(
                windows, lambda window: window.size, lambda same: self._run_waves(same, features), self._max_batch
            )
            for window, waveform in zip(windows, waveforms, strict=True):
                index, _ = parts[window.part]
                samples_per_frame = len(waveform) // (window.size - 2 * self._wave_field)
                kept = waveform[: (window.end - window.begin) * samples_per_frame]
                pieces[index].append(self._device.to_host(kept))
        return [np.concatenate(of_row) for of_row in pieces]

    def _parts(self, row: VocoderRow) -> Iterator[VocoderRow]:
        """The row itself, or, where the engine takes fewer tokens, stretches of it with their context."""
        limit, field = self._features.max_length, self._receptive_field
        if limit is None or len(row.semantic_tokens) <= limit:
            yield row
            return
        for begin in range(row.begin, row.end, limit - 2 * field):
            end = min(begin + limit - 2 * field, row.end)
            first = max(0, begin - field)
            tokens = row.semantic_tokens[first : end + field]
            yield VocoderRow(row.global_tokens, tokens, begin - first, end - first)

    def _run_features(self, rows: Sequence[VocoderRow]) -> Array:
        """The features of rows of one length: [rows, m, channels], on the device."""
        inputs = {
            "global_tokens": np.stack([row.global_tokens for row in rows]),
            "semantic_tokens": np.stack([row.semantic_tokens for row in rows]),
        }
        with self._turns.turn():
            return self._features.run(inputs)["features"]

    def _windows(self, number: int, row: VocoderRow) -> Iterator[_Window]:
        """A part's wanted stretch in windows, each as large as fits."""
        context = 2 * self._wave_field
        largest = max(self._waves) - context
        for begin in range(row.begin, row.end, largest):
            end = min(begin + largest, row.end)
            yield _Window(number, begin, end, min(size for size in self._waves if size >= end - begin + context))

    def _run_waves(self, windows: Sequence[_Window], features: Sequence[Array]) -> Array:
        """The samples of windows of one size: [windows, samples_per_token (size - 2 wave_field)], on the device."""
        size = windows[0].size
        frames = self._device.zeros(len(windows), size, features[0].shape[1])
        mask = np.zeros((len(windows), size), np.float32)
        for place, window in enumerate(windows):
            of_part = features[window.part]
            origin = window.begin - self._wave_field
            first, last = max(0, origin), min(len(of_part), window.end + self._wave_field)
            frames[place, first - origin : last - origin] = of_part[first:last]
            mask[place, first - origin : last - origin] = 1
        with self._turns.turn():
            return self._waves[size].run({"features": frames, "mask": mask})["waveform"]
