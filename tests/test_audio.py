from pathlib import Path

import numpy as np
import pytest
import soundfile

from tritone.audio import check_reference, normalize_volume, reference_clip, resample
from tritone.errors import InvalidInput

SAMPLE_RATE_HZ = 16000
GOLDEN_DIR = Path(__file__).parent / "golden"


def tone(duration_s: float, peak: float = 0.5) -> np.ndarray:
    time_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (peak * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["en_f3", "zh_m", "en_m2_short"])
def test_prepared_audio_equals_the_published_codes(name: str, dtype: str, golden: dict[str, np.ndarray]) -> None:
    wav, sample_rate_hz = soundfile.read(GOLDEN_DIR / f"{name}.wav", dtype=dtype)
    prepared = normalize_volume(resample(wav, sample_rate_hz, SAMPLE_RATE_HZ))
    np.testing.assert_allclose(prepared, golden[f"{name}.wav16k"], atol=1e-6)


def test_loud_parts_come_to_the_target_level() -> None:
    normalized = normalize_volume(tone(1, peak=0.9))
    audible = np.sort(np.abs(normalized))
    loud = audible[int(0.9 * len(audible)) : int(0.99 * len(audible))]
    assert loud.mean() == pytest.approx(0.2, rel=0.02)


def test_a_single_click_does_not_push_samples_out_of_range() -> None:
    wav = tone(1, peak=0.02)
    wav[100] = 0.9
    assert np.abs(normalize_volume(wav)).max() == pytest.approx(1.0)


def test_nearly_silent_audio_is_raised_no_more_than_a_hundredfold() -> None:
    # Peak under 0.01: no sample is audible before the scaling, so the level is left alone.
    assert np.abs(normalize_volume(tone(1, peak=0.005))).max() == pytest.approx(0.1, rel=1e-3)
    assert np.abs(normalize_volume(tone(1, peak=0.0005))).max() == pytest.approx(0.05, rel=1e-3)


def test_reference_clip_is_cut_from_the_start_or_repeated() -> None:
    np.testing.assert_array_equal(reference_clip(np.arange(10), 4), np.arange(4))
    np.testing.assert_array_equal(reference_clip(np.arange(3), 7), [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(reference_clip(np.arange(4), 4), np.arange(4))


def test_a_usable_reference_passes() -> None:
    check_reference(tone(0.5), SAMPLE_RATE_HZ)
    check_reference(tone(30), SAMPLE_RATE_HZ)


@pytest.mark.parametrize(
    ("wav", "sample_rate_hz", "message"),
    [
        (tone(0.01), SAMPLE_RATE_HZ, "reference_wav has 0.01 s, at least 0.5 s"),
        (np.zeros(0, np.float32), SAMPLE_RATE_HZ, "reference_wav has 0.00 s"),
        (tone(31), SAMPLE_RATE_HZ, "reference_wav has 31.0 s, at most 30 s"),
        (np.append(tone(1), np.float32(np.nan)), SAMPLE_RATE_HZ, "reference_wav holds samples that are not finite"),
        (np.append(tone(1), np.float32(np.inf)), SAMPLE_RATE_HZ, "reference_wav holds samples that are not finite"),
        (np.zeros(SAMPLE_RATE_HZ, np.float32), SAMPLE_RATE_HZ, "reference_wav is silent"),
        (tone(1), 0, "reference_sample_rate must be positive, got 0"),
    ],
)
def test_an_unusable_reference_is_refused_by_name(wav: np.ndarray, sample_rate_hz: int, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_reference(wav, sample_rate_hz)


def test_limits_of_the_duration_can_be_set() -> None:
    check_reference(tone(0.2), SAMPLE_RATE_HZ, min_duration_s=0.1)
    with pytest.raises(InvalidInput, match="at most 2 s"):
        check_reference(tone(3), SAMPLE_RATE_HZ, max_duration_s=2)
