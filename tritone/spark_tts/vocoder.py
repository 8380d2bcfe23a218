"""The vocoder on a CPU: tokens to samples, any stretch of an utterance, in windows of a few fixed sizes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tritone.engines import Engine, Precision
from tritone.turns import NoTurns, Turns

# In frames, one frame a token. Fixed sizes run three to four times as fast as free ones; larger ones spend a smaller
# share on context, and each takes memory of its own.
WAVE_WINDOW_SIZES = (32, 64, 128, 192)


class VocoderEngine:
    """Two engines in a row: features of a token each, then the wave generator.

    The first half sees far but costs little, so it runs on all the tokens it is given, whatever their number. The wave
    generator costs nearly everything and sees `wave_field` frames to each side: it runs on windows of the wanted
    stretch, padded to the next of `sizes` behind a mask, one at a time (batches of such windows gained nothing on a
    CPU). The samples equal those of the whole utterance up to rounding, and memory does not grow with its length.
    """

    def __init__(
        self,
        engine_dir: Path,
        wave_field: int,
        precision: Precision,
        num_threads: int = 0,
        sizes: Sequence[int] = WAVE_WINDOW_SIZES,
        turns: Turns | None = None,
    ) -> None:
        """
        Args:
            engine_dir: holds `vocoder_features.xml` and `vocoder_waves.xml`, as `build_engines.codec` writes them.
            wave_field: how many frames on each side a sample depends on in the wave generator.
            sizes: of the windows, in frames, ascending.
            turns: waited for before each window.

        Raises:
            ValueError: the largest window leaves no room for a frame between two contexts.
        """
        if sizes[-1] <= 2 * wave_field:
            raise ValueError(f"the largest window must have over {2 * wave_field} frames (two contexts): {sizes}")
        self._wave_field = wave_field
        self._turns = turns or NoTurns()
        self._features = Engine(engine_dir / "vocoder_features.xml", precision, num_threads)
        shapes = [{"features": [1, size], "mask": [1, size]} for size in sizes]
        engines = Engine.of_shapes(engine_dir / "vocoder_waves.xml", precision, num_threads, shapes)
        self._waves = dict(zip(sizes, engines, strict=True))

    def decode(
        self, global_tokens: np.ndarray, semantic_tokens: np.ndarray, begin: int = 0, end: int | None = None
    ) -> np.ndarray:
        """Samples FP32 of the tokens [begin, end), all unless said, of an utterance of INT32 [32] and INT32 [m]."""
        end = len(semantic_tokens) if end is None else end
        inputs = {"global_tokens": global_tokens[None], "semantic_tokens": semantic_tokens[None]}
        with self._turns.turn():
            features = self._features.run(inputs)["features"]
        pieces = []
        while begin < end:
            piece_end, piece = self._decode_window(features, begin, end)
            pieces.append(piece)
            begin = piece_end
        return np.concatenate(pieces)

    def _decode_window(self, features: np.ndarray, begin: int, end: int) -> tuple[int, np.ndarray]:
        """As much of [begin, end) as fits one window: where it ends, and its samples."""
        num_frames = features.shape[1]
        first = max(0, begin - self._wave_field)
        last = min(num_frames, end + self._wave_field)
        size = next((size for size in self._waves if size >= last - first), None)
        if size is None:
            size = max(self._waves)
            last = first + size
            end = last - self._wave_field
        window = np.zeros((1, size, features.shape[2]), np.float32)
        mask = np.zeros((1, size), np.float32)
        window[:, : last - first] = features[:, first:last]
        mask[:, : last - first] = 1
        with self._turns.turn():
            waveform = self._waves[size].run({"features": window, "mask": mask})["waveform"][0]
        samples_per_frame = len(waveform) // size
        return end, waveform[(begin - first) * samples_per_frame : (end - first) * samples_per_frame]
