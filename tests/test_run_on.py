import numpy as np
import pytest

from tritone.run_on import RepetitionDetector, SilenceDetector, token_budget
from tritone.text import estimate_speech_s

TOKENS_PER_S = 50
SAMPLE_RATE_HZ = 16000


def test_budget_has_room_for_the_slowest_speech() -> None:
    text = "When the rain had stopped, the two of them walked slowly home along the river, and neither said a word."
    num_syllables = 26
    slowest_s = num_syllables / 2.55  # Spark-TTS's very low speed begins here
    assert 1.5 * slowest_s < token_budget(text, TOKENS_PER_S) / TOKENS_PER_S < 4 * estimate_speech_s(text)


def test_budget_of_nothing_leaves_a_breath() -> None:
    assert token_budget("...", TOKENS_PER_S) == 3 * TOKENS_PER_S
    assert token_budget("hi", 12.5) > 3 * 12.5


def _fed(ids: list[int], group: int = 7) -> RepetitionDetector:
    detector = RepetitionDetector(TOKENS_PER_S)
    for begin in range(0, len(ids), group):
        detector.feed(ids[begin : begin + group])
    return detector


def _speech(num_tokens: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 8192, num_tokens).tolist()


@pytest.mark.parametrize("period", [1, 2, 3, 7, 25, 33, 50])
def test_endless_pattern_is_cut_after_its_first_period(period: int) -> None:
    speech, pattern = _speech(120), list(range(10_000, 10_000 + period))
    needed = max(100, 4 * period)
    looped = (pattern * 200)[:needed]
    assert _fed(speech + looped[:-1]).num_good is None
    assert _fed(speech + looped).num_good == 120 + period


def test_repetition_is_told_at_once_and_stays() -> None:
    detector = RepetitionDetector(TOKENS_PER_S)
    for index in range(100):
        assert detector.num_good is None
        detector.feed([5])
        assert (detector.num_good is None) == (index < 99)
    detector.feed(_speech(200))
    assert detector.num_good == 1


def test_groups_do_not_matter() -> None:
    ids = [*_speech(61), *[1, 2, 3, 1] * 60]
    assert {_fed(ids, group).num_good for group in (1, 5, 64, 1000)} == {65}


@pytest.mark.parametrize(
    "ids",
    [
        _speech(3000),
        _speech(50) + [7] * 99 + _speech(50),  # a pause, or a held vowel, of 2 s
        [token for syllable in range(40) for token in [syllable] * 20],  # slow and drawn out
        _speech(40) * 3 + _speech(50, seed=1),  # a word three times
        (_speech(60) * 10)[:600],  # repeats, but with a period over 1 s: a sentence may
        [token for variant in range(30) for token in [*range(24), 100 + variant]],  # alike, never the same
        _speech(10, seed=2) * 9 + [9] + _speech(10, seed=2) * 9,
    ],
)
def test_speech_is_not_taken_for_repetition(ids: list[int]) -> None:
    assert _fed(ids).num_good is None


def test_rate_scales_the_repetition() -> None:
    detector = RepetitionDetector(tokens_per_s=12.5)
    detector.feed(_speech(30) + [4] * 24)
    assert detector.num_good is None
    detector.feed([4])
    assert detector.num_good == 31


def _tone(duration_s: float, level_dbfs: float = -20) -> np.ndarray:
    time_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (np.sqrt(2) * 10 ** (level_dbfs / 20) * np.sin(2 * np.pi * 200 * time_s)).astype(np.float32)


def _heard(waveform: np.ndarray, max_silence_s: float = 2.0) -> SilenceDetector:
    detector = SilenceDetector(SAMPLE_RATE_HZ, max_silence_s)
    detector.feed(waveform)
    return detector


@pytest.mark.parametrize("silence_dbfs", [-120, -59, -51])
def test_long_silence_is_cut_where_it_began(silence_dbfs: float) -> None:
    detector = _heard(np.concatenate([_tone(1.2), _tone(2.5, silence_dbfs), _tone(1)]))
    assert detector.num_good == round(1.2 * SAMPLE_RATE_HZ)


@pytest.mark.parametrize("between", [_tone(1.9, -120), _tone(2.0, -120), _tone(4, -45)], ids=["1.9 s", "2 s", "faint"])
def test_pauses_and_faint_speech_are_not_too_long_silence(between: np.ndarray) -> None:
    assert _heard(np.concatenate([_tone(1), between, _tone(1)])).num_good is None


def test_silence_from_the_start_leaves_nothing_good() -> None:
    assert _heard(np.zeros(3 * SAMPLE_RATE_HZ, np.float32)).num_good == 0


def test_only_unbroken_silence_counts() -> None:
    assert _heard(np.concatenate([_tone(1.5, -120), _tone(0.02), _tone(1.5, -120)])).num_good is None


def test_first_long_silence_decides() -> None:
    detector = _heard(np.concatenate([_tone(1), _tone(0.6, -120), _tone(1), _tone(0.8, -120)]), max_silence_s=0.5)
    assert detector.num_good == SAMPLE_RATE_HZ


@pytest.mark.parametrize("seed", range(10))
def test_pieces_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [_tone(rng.uniform(0, 1.5), rng.choice([-120, -52, -48, -20])) for _ in range(8)]
    waveform = np.concatenate([*parts, _tone(rng.uniform(0, 1.2), -90)])
    whole = _heard(waveform, max_silence_s=1.0)
    detector = SilenceDetector(SAMPLE_RATE_HZ, max_silence_s=1.0)
    for piece in np.split(waveform, np.sort(rng.integers(0, len(waveform), rng.integers(1, 200)))):
        detector.feed(piece)
    assert detector.num_good == whole.num_good


@pytest.mark.parametrize(("syllables_per_s", "factor"), [(None, 1), (8, 1), (4.2, 1), (2.1, 2), (1, 4.2), (0, 4.2)])
def test_slow_speech_may_take_longer(syllables_per_s: float | None, factor: float) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    normal = token_budget(text, 50) - 3 * 50
    assert token_budget(text, 50, syllables_per_s) == pytest.approx(factor * normal + 3 * 50, abs=5)
