"""Reference audio, mono, prepared exactly as Spark-TTS's own inference prepares it."""

import numpy as np
import soxr

from tritone.errors import InvalidInput

MIN_REFERENCE_DURATION_S = 0.5
MAX_REFERENCE_DURATION_S = 30.0
# Under one step of 16-bit audio: what a muted microphone or an empty file gives.
SILENCE_PEAK = 1e-4


def check_reference(
    wav: np.ndarray,
    sample_rate_hz: int,
    *,
    min_duration_s: float = MIN_REFERENCE_DURATION_S,
    max_duration_s: float = MAX_REFERENCE_DURATION_S,
) -> None:
    """Refuse reference audio, [num_samples] in -1..1, that no voice can be taken from.

    Raises:
        InvalidInput: the samples are not finite, all but silent, too few or too many.
    """
    if sample_rate_hz <= 0:
        raise InvalidInput(f"reference_sample_rate must be positive, got {sample_rate_hz}")
    duration_s = len(wav) / sample_rate_hz
    if duration_s < min_duration_s:
        raise InvalidInput(
            f"reference_wav has {duration_s:.2f} s, at least {min_duration_s:g} s are needed (min_reference_s)"
        )
    if duration_s > max_duration_s:
        raise InvalidInput(
            f"reference_wav has {duration_s:.1f} s, at most {max_duration_s:g} s are allowed (max_reference_s)"
        )
    if not np.isfinite(wav).all():
        raise InvalidInput("reference_wav holds samples that are not finite numbers")
    if np.abs(wav).max() < SILENCE_PEAK:
        raise InvalidInput(f"reference_wav is silent: no sample reaches {SILENCE_PEAK:g} of full scale")


def resample(wav: np.ndarray, sample_rate_hz: int, target_sample_rate_hz: int) -> np.ndarray:
    """`wav` at another rate, at soxr's highest quality."""
    if sample_rate_hz == target_sample_rate_hz:
        return wav
    return soxr.resample(wav, sample_rate_hz, target_sample_rate_hz, quality="VHQ")


def normalize_volume(wav: np.ndarray, target_level: float = 0.2) -> np.ndarray:
    """`wav` with its loud parts at `target_level` and no sample beyond -1..1.

    Loud parts are the 90th to 99th percentile of the magnitudes over 0.01. As in the published code, those are
    taken before a quiet clip (peak under 0.1) is raised, and the gain is limited to 0.1..10.
    """
    magnitudes = np.sort(np.abs(wav))
    if magnitudes[-1] < 0.1:
        wav = wav / max(magnitudes[-1], 1e-3) * 0.1

    audible = magnitudes[magnitudes > 0.01]
    if len(audible) <= 10:
        return wav
    level = np.mean(audible[int(0.9 * len(audible)) : int(0.99 * len(audible))])
    wav = wav * np.clip(target_level / level, 0.1, 10)
    peak = np.max(np.abs(wav))
    return wav / peak if peak > 1 else wav


def reference_clip(wav: np.ndarray, num_samples: int) -> np.ndarray:
    """The first `num_samples` of prepared audio, which is repeated where it is shorter: [num_samples]."""
    num_repeats = -(-num_samples // len(wav))
    return np.tile(wav, num_repeats)[:num_samples]
