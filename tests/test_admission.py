"""How many requests a model takes at a time, and what those beyond are told."""

import re
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from tritone.admission import MIN_RETRY_S, Admission, AdmissionSettings
from tritone.errors import Unavailable


class Clock:
    """Time that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tritone.admission.time", SimpleNamespace(monotonic=clock))
    return clock


def admission(max_requests: int) -> Admission:
    return Admission(AdmissionSettings(max_requests))


def serve(admission: Admission, clock: Clock, duration_s: float) -> None:
    """One request that takes so long."""
    with admission.enter():
        clock.now_s += duration_s


def retry_s(admission: Admission) -> float:
    """What one request too many is told."""
    with pytest.raises(Unavailable) as refusal, admission.enter():
        pass
    hint = re.search(r"try again in about ([\d.]+) s", str(refusal.value))
    assert hint is not None
    return float(hint[1])


def test_as_many_as_allowed_are_admitted_and_one_more_is_refused() -> None:
    requests = admission(3)
    with ExitStack() as places:
        for _ in range(3):
            places.enter_context(requests.enter())
        with pytest.raises(Unavailable, match=r"^3 requests .* max_requests"), requests.enter():
            pytest.fail("a fourth request was admitted")


@pytest.mark.parametrize("how", [None, ValueError, GeneratorExit])
def test_a_request_gives_its_place_back_however_it_ends(how: type[BaseException] | None) -> None:
    requests = admission(1)
    if how is None:
        with requests.enter():
            pass
    else:
        with pytest.raises(how), requests.enter():
            raise how
    with requests.enter():
        pass


def test_a_limit_that_admits_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="max_requests must be at least 1"):
        AdmissionSettings(0)


def test_requests_may_end_in_any_order() -> None:
    requests = admission(2)
    first, second, third = (requests.enter() for _ in range(3))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with third:
        retry_s(requests)
        second.__exit__(None, None, None)
        with requests.enter():
            pass


def test_a_refused_request_takes_no_place() -> None:
    requests = admission(1)
    with requests.enter():
        for _ in range(5):
            retry_s(requests)
    with requests.enter():
        pass


def test_the_hint_is_when_the_oldest_request_usually_ends(clock: Clock) -> None:
    requests = admission(2)
    serve(requests, clock, 10.0)
    with requests.enter():
        clock.now_s += 3.0
        with requests.enter():
            clock.now_s += 1.0
            assert retry_s(requests) == 6.0  # the older one has taken 4 of its 10 s


def test_the_hint_is_never_at_once(clock: Clock) -> None:
    requests = admission(1)
    with requests.enter():
        assert retry_s(requests) == MIN_RETRY_S  # nothing is known of how long requests take
    serve(requests, clock, 2.0)
    with requests.enter():
        clock.now_s += 60.0
        assert retry_s(requests) == MIN_RETRY_S


def test_the_hint_counts_those_that_were_served(clock: Clock) -> None:
    requests = admission(4)
    with ExitStack() as others:
        for _ in range(3):
            others.enter_context(requests.enter())
        for _ in range(5):
            with pytest.raises(ValueError), requests.enter():
                raise ValueError  # answered at once
        serve(requests, clock, 10.0)
    with ExitStack() as places:
        for _ in range(4):
            places.enter_context(requests.enter())
        assert retry_s(requests) == 10.0


def test_the_hint_follows_when_requests_take_longer(clock: Clock) -> None:
    requests = admission(1)
    for _ in range(50):
        serve(requests, clock, 1.0)
    with requests.enter():
        before_s = retry_s(requests)
    for _ in range(100):
        serve(requests, clock, 9.0)
    with requests.enter():
        after_s = retry_s(requests)
    assert before_s == 1.0
    assert after_s > 8.5
