import numpy as np
import pytest

from tritone.windows import CrossFade, StreamSettings, StreamWindows, Window, whole_windows

RECEPTIVE_FIELD = 7


def convolve(tokens: np.ndarray) -> np.ndarray:
    """A stand-in vocoder: one sample a token, each the weighted sum of its receptive field, zeros beyond the ends."""
    weights = np.random.default_rng(0).standard_normal(2 * RECEPTIVE_FIELD + 1)
    return np.convolve(tokens, weights, mode="full")[RECEPTIVE_FIELD : RECEPTIVE_FIELD + len(tokens)].astype(np.float32)


@pytest.mark.parametrize("num_tokens", [*range(1, 60), 200])
def test_whole_windows_decode_like_the_whole(num_tokens: int) -> None:
    tokens = np.random.default_rng(num_tokens).standard_normal(num_tokens)
    windows = list(whole_windows(num_tokens, RECEPTIVE_FIELD, window_size=20))
    decoded = np.concatenate([w.kept(convolve(tokens[w.begin : w.end]), 1) for w in windows])
    np.testing.assert_allclose(decoded, convolve(tokens), atol=1e-5)


def test_windows_of_a_long_utterance_have_one_size() -> None:
    assert {w.end - w.begin for w in whole_windows(1234, RECEPTIVE_FIELD, window_size=50)} == {50}


def test_a_window_without_room_between_its_contexts_is_refused() -> None:
    with pytest.raises(ValueError, match="window_size must be over 14"):
        list(whole_windows(100, RECEPTIVE_FIELD, window_size=2 * RECEPTIVE_FIELD))


def stream(tokens: np.ndarray, settings: StreamSettings, arrivals: list[int]) -> tuple[np.ndarray, list[Window]]:
    """What a client concatenates when the tokens arrive in groups of the given sizes."""
    planner, fade, pieces, windows = StreamWindows(settings, RECEPTIVE_FIELD), CrossFade(), [], []
    num_arrived = 0
    for size in [*arrivals, len(tokens)]:
        finished = size == len(tokens)
        num_arrived = min(len(tokens), num_arrived + size)
        while (window := planner.next(num_arrived, finished)) is not None:
            num_fade = 0 if finished and window.keep_end == len(tokens) else settings.fade
            samples = window.kept(convolve(tokens[window.begin : window.end]), 1, num_fade)
            pieces.append(fade.join(samples, num_fade))
            windows.append(window)
    return np.concatenate(pieces), windows


@pytest.mark.parametrize("num_tokens", [1, 2, 5, 9, 10, 11, 24, 25, 26, 100, 333])
@pytest.mark.parametrize("group", [1, 4, 1000])
def test_a_stream_with_full_look_ahead_equals_the_whole(num_tokens: int, group: int) -> None:
    settings = StreamSettings(first_chunk=5, growth=1.5, max_chunk=40, look_ahead=RECEPTIVE_FIELD + 3, fade=3)
    tokens = np.random.default_rng(num_tokens).standard_normal(num_tokens)
    arrivals = [group] * ((num_tokens - 1) // group)
    streamed, _ = stream(tokens, settings, arrivals)
    np.testing.assert_allclose(streamed, convolve(tokens), atol=1e-5)


def test_last_chunk_keeps_all_tokens() -> None:
    settings = StreamSettings(first_chunk=10, growth=1, max_chunk=10, look_ahead=4, fade=0)
    _, windows = stream(np.ones(37), settings, [1] * 36)
    assert [w.keep_end for w in windows] == [10, 20, 30, 37]
    assert windows[-1].end == 37


def test_chunks_grow_to_their_limit() -> None:
    settings = StreamSettings(first_chunk=10, growth=2, max_chunk=35, look_ahead=0, fade=0)
    _, windows = stream(np.ones(200), settings, [1] * 199)
    assert [w.keep_end - w.keep_begin for w in windows] == [10, 20, 35, 35, 35, 35, 30]


def test_no_window_is_planned_before_its_look_ahead_arrived() -> None:
    planner = StreamWindows(StreamSettings(first_chunk=10, look_ahead=5, fade=1), RECEPTIVE_FIELD)
    assert planner.next(14, finished=False) is None
    assert planner.next(15, finished=False) == Window(0, 15, 0, 10)


def test_a_cross_fade_goes_from_one_estimate_to_the_other() -> None:
    fade = CrossFade()
    first = fade.join(np.zeros(10, np.float32), num_tail=4)
    second = fade.join(np.ones(8, np.float32), num_tail=0)
    assert len(first) == 6
    np.testing.assert_allclose(second, [0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1])


@pytest.mark.parametrize("wrong", [{"first_chunk": 0}, {"growth": 0.5}, {"max_chunk": 3}, {"fade": 17}, {"fade": -1}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        StreamSettings(**wrong)  # type: ignore[arg-type]
