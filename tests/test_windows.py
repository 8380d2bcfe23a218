"""Which tokens are decoded together: that pieces join to the whole, and that a listener does not wait."""

import itertools
import math

import numpy as np
import pytest

from tritone.windows import CrossFade, Playback, StreamSettings, StreamWindows, WholeWindows, Window, Windows

FIELD = 5
TOKENS_PER_S = 50.0
SETTINGS = StreamSettings(first_chunk=10, slow_chunk=20, max_chunk=40, look_ahead=6, fade=2)


class Clock:
    """Time that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def decoded(tokens: np.ndarray) -> np.ndarray:
    """A stand-in vocoder: one sample a token, each the weighted sum of its receptive field, zeros beyond the ends."""
    return np.convolve(tokens, np.arange(1.0, 2 * FIELD + 2))[FIELD : FIELD + len(tokens)].astype(np.float32)


def play(windows: Windows, tokens: np.ndarray, num_at_a_time: int) -> tuple[np.ndarray, list[Window]]:
    """The joined samples, and the windows they came from, when so many tokens come at a time."""
    fade, pieces, used = CrossFade(), [], []
    for num_tokens in [*range(num_at_a_time, len(tokens), num_at_a_time), len(tokens)]:
        finished = num_tokens == len(tokens)
        while (window := windows.next(num_tokens, finished)) is not None:
            assert 0 <= window.begin <= window.keep_begin < window.keep_end
            assert window.keep_end + window.fade <= window.end <= num_tokens
            samples = decoded(tokens[window.begin : window.end])
            kept = samples[window.keep_begin - window.begin : window.keep_end + window.fade - window.begin]
            pieces.append(fade.join(kept, window.fade))
            used.append(window)
    return np.concatenate(pieces), used


@pytest.mark.parametrize("num_at_a_time", [1, 7, 1000])
@pytest.mark.parametrize("num_tokens", [*range(1, 60), 100, 333])
def test_whole_windows_join_to_the_whole(num_tokens: int, num_at_a_time: int) -> None:
    tokens = np.random.default_rng(num_tokens).standard_normal(num_tokens).astype(np.float32)
    samples, windows = play(WholeWindows(FIELD, chunk=13), tokens, num_at_a_time)
    np.testing.assert_allclose(samples, decoded(tokens), rtol=1e-5)
    assert max(window.end - window.begin for window in windows) <= 13 + 2 * FIELD


@pytest.mark.parametrize("num_at_a_time", [1, 7, 1000])
@pytest.mark.parametrize("num_tokens", [*range(1, 60), 100, 333])
def test_stream_windows_join_to_the_whole_where_the_look_ahead_covers_the_field(
    num_tokens: int, num_at_a_time: int
) -> None:
    tokens = np.random.default_rng(num_tokens).standard_normal(num_tokens).astype(np.float32)
    settings = StreamSettings(first_chunk=4, slow_chunk=10, max_chunk=20, look_ahead=FIELD + 2, fade=2)
    windows = StreamWindows(settings, FIELD, TOKENS_PER_S, Playback(), clock=Clock())
    samples, used = play(windows, tokens, num_at_a_time)
    np.testing.assert_allclose(samples, decoded(tokens), rtol=1e-4, atol=1e-4)
    assert all(window.begin == max(0, window.keep_begin - FIELD) for window in used)
    assert max(window.keep_end - window.keep_begin for window in used) <= 20 + FIELD + 2


def streamed(
    tokens_per_s: float, decode_s: float, num_tokens: int = 600, prompt_s: float = 0.5
) -> tuple[list[int], float]:
    """The chunks of a stream whose tokens come at a steady pace, and how long its listener was without speech."""
    clock, playback = Clock(), Playback()
    windows = StreamWindows(SETTINGS, FIELD, TOKENS_PER_S, playback, clock=clock)
    chunks, silent_s = [], 0.0
    began_s = clock.now_s
    while sum(chunks) < num_tokens:
        num_arrived = min(num_tokens, max(0, int((clock.now_s - began_s - prompt_s) * tokens_per_s)))
        window = windows.next(num_arrived, num_arrived == num_tokens)
        if window is None:
            clock.now_s += 1 / tokens_per_s
            continue
        clock.now_s += decode_s
        chunks.append(window.keep_end - window.keep_begin)
        silent_s += max(0.0, -playback.lead_s(clock.now_s))
        playback.sent(chunks[-1] / TOKENS_PER_S, clock.now_s)
    return chunks, silent_s


@pytest.mark.parametrize(
    ("tokens_per_s", "decode_s"),
    [(56, 0.03), (70, 0.03), (80, 0.01), (80, 0.15), (100, 0.03), (200, 0.03), (1000, 0.03)],
)
def test_a_listener_never_runs_dry_while_the_server_keeps_up(tokens_per_s: float, decode_s: float) -> None:
    chunks, silent_s = streamed(tokens_per_s, decode_s)
    assert silent_s == 0
    assert chunks[0] == SETTINGS.first_chunk


def test_chunks_grow_with_the_lead() -> None:
    chunks, _ = streamed(tokens_per_s=200, decode_s=0.03)
    assert chunks[0] < chunks[1] < chunks[2] == SETTINGS.max_chunk
    assert chunks[3:13] == [SETTINGS.max_chunk] * 10


def test_chunks_are_larger_when_the_server_cannot_keep_up() -> None:
    chunks, silent_s = streamed(tokens_per_s=20, decode_s=0.05)
    assert silent_s > 0
    assert chunks[0] == SETTINGS.first_chunk
    assert chunks[1:-1] == [SETTINGS.slow_chunk] * len(chunks[1:-1])


def test_chunks_are_larger_when_small_ones_would_not_keep_up() -> None:
    chunks, silent_s = streamed(tokens_per_s=60, decode_s=0.25)
    assert silent_s > 0
    assert chunks[:2] == [SETTINGS.first_chunk, SETTINGS.slow_chunk]
    assert min(chunks[1:-1]) == SETTINGS.slow_chunk


# of full chunks of 9, 14, 22 and 50, where the first has at least 10 and any at most 40
@pytest.mark.parametrize(("num_ready", "chunk"), [(10, 10), (13, 13), (14, 14), (21, 14), (22, 22), (90, 22)])
def test_chunks_fill_the_vocoders_windows(num_ready: int, chunk: int) -> None:
    windows = StreamWindows(SETTINGS, FIELD, TOKENS_PER_S, Playback(), (9, 14, 22, 50), Clock())
    window = windows.next(num_ready + SETTINGS.look_ahead, finished=False)
    assert window == Window(0, chunk + SETTINGS.look_ahead, 0, chunk, SETTINGS.fade)


def test_the_time_of_the_prompt_is_no_gap_between_tokens() -> None:
    assert streamed(tokens_per_s=60, decode_s=0.03, prompt_s=5) == streamed(tokens_per_s=60, decode_s=0.03)


@pytest.mark.parametrize(("turnaround_s", "begins"), [(0.01, False), (0.15, True)])
def test_a_chunk_is_begun_earlier_when_decoding_takes_longer(turnaround_s: float, begins: bool) -> None:
    clock, playback = Clock(), Playback()
    playback.sent(0.15, clock.now_s)
    playback.turnaround_s = turnaround_s
    windows = StreamWindows(SETTINGS, FIELD, TOKENS_PER_S, playback, clock=clock)
    assert (windows.next(30, finished=False) is not None) == begins


def test_a_playback_counts_what_is_left() -> None:
    playback = Playback()
    assert playback.lead_s(5.0) == math.inf
    playback.sent(1.0, now_s=10.0)
    playback.sent(0.5, now_s=10.2)
    assert playback.lead_s(10.2) == pytest.approx(1.3)
    assert playback.lead_s(12.0) == pytest.approx(-0.5)
    playback.sent(1.0, now_s=12.0)  # the listener waited, and goes on
    assert playback.lead_s(12.0) == pytest.approx(1.0)


def test_a_cross_fade_goes_from_one_neighbour_to_the_other() -> None:
    fade = CrossFade()
    first, second = fade.join(np.zeros(8, np.float32), 4), fade.join(np.ones(8, np.float32), 0)
    assert len(first) == 4 and len(second) == 8
    assert all(before < after for before, after in itertools.pairwise(second[:5]))
    np.testing.assert_array_equal(second[4:], np.ones(4))


@pytest.mark.parametrize(
    "values",
    [
        {"first_chunk": 0},
        {"max_chunk": 19},
        {"slow_chunk": 9},
        {"look_ahead": 0, "fade": 0},
        {"fade": 7, "look_ahead": 6},
        {"fade": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        StreamSettings(**{"first_chunk": 10, "slow_chunk": 20, "max_chunk": 40, **values})
