"""Batches of clips, drawn at random from the data."""

from dataclasses import dataclass

import numpy as np
import torch

from build_engines.demo_voice.codes import SAMPLES_PER_FRAME, global_digits, global_tokens, told_f0_hz
from build_engines.demo_voice.data import Dataset


@dataclass(frozen=True)
class Clips:
    """Some clips of one length, on a device.

    Attributes:
        samples: float32 [batch, frames * 320].
        classes: int64 [batch, frames], as `SemanticCodes.classes`.
        semantic_tokens: int64 [batch, frames]; global_tokens: int64 [batch, 32].
        f0s_hz, told_f0s_hz: float32 [batch], the second as the global tokens tell it.
        ages: int64 [batch, frames], how many frames before it belong to the same sound.
    """

    samples: torch.Tensor
    classes: torch.Tensor
    semantic_tokens: torch.Tensor
    global_tokens: torch.Tensor
    f0s_hz: torch.Tensor
    told_f0s_hz: torch.Tensor
    ages: torch.Tensor


def draw_clips(
    data: Dataset,
    batch_size: int,
    num_frames: int,
    generator: np.random.Generator,
    device: torch.device,
    among: np.ndarray | None = None,
) -> Clips:
    """Each from another utterance, anywhere in it; one that is shorter is followed by its last, silent frame's code.

    Args:
        among: the indices of the utterances to draw from, int64 [n]; all unless said.
    """
    samples = np.zeros((batch_size, num_frames * SAMPLES_PER_FRAME), np.float32)
    classes = np.empty((batch_size, num_frames), np.int64)
    ages = np.empty((batch_size, num_frames), np.int64)
    digits, f0s_hz = [], []
    indices = np.arange(len(data)) if among is None else among
    for row, index in enumerate(indices[generator.integers(len(indices), size=batch_size)]):
        begin = draw_begin(data, index, num_frames, generator)
        piece = data.waveform(index, begin, num_frames)
        samples[row, : len(piece)] = piece
        codes = data.classes[index][begin : begin + num_frames]
        missing = 0, num_frames - len(codes)
        classes[row] = np.pad(codes, missing, mode="edge")
        ages[row] = np.pad(data.codes.ages(data.classes[index])[begin : begin + num_frames], missing, mode="edge")
        utterance = data.utterances[index]
        digits.append(global_digits(utterance.voice, utterance.f0_hz))
        f0s_hz.append(utterance.f0_hz)

    def on_device(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    return Clips(
        on_device(samples),
        on_device(classes),
        on_device(data.codes.codes[classes]),
        on_device(global_tokens(np.stack(digits))),
        on_device(np.array(f0s_hz, np.float32)),
        on_device(np.array([told_f0_hz(f0_hz) for f0_hz in f0s_hz], np.float32)),
        on_device(ages),
    )


def draw_begin(data: Dataset, index: int, num_frames: int, generator: np.random.Generator) -> int:
    """The frame where a clip of an utterance begins; the first of one that is not longer than the clip."""
    return int(generator.integers(max(1, len(data.classes[index]) - num_frames + 1)))
