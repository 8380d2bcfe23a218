"""What the metrics endpoint says of requests that are served, refused, wrong or left."""

import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import pytest
from tritone_client import ControlledVoice, ReferenceVoice, Tritone, TritoneError, Unavailable

from demo.lines import DEMO_SENTENCES
from tests.conftest import PROJECT_DIR
from tests.live.conftest import SMALL_SERVER_PLACES
from tests.promql import metric_names
from tests.test_alerts import DOCUMENTATION, documented_labels, expressions
from tritone.serve import TritonServer

LONG_TEXT = "\n".join(f"{sentence}." for sentence in DEMO_SENTENCES)  # over a minute
VOICE = ControlledVoice("female", pitch="high")
WAIT_S = 20
# What others than the server bring, and what it has with a GPU only.
ELSEWHERE = {"kube_deployment_status_replicas_available", "nv_gpu_utilization", "nv_gpu_memory_used_bytes"}


def exposition(server: TritonServer) -> str:
    with urllib.request.urlopen(f"http://{server.host}:{server.metrics_port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def series(server: TritonServer) -> dict[str, float]:
    """Every series by its name and the values of its labels, sorted by their names."""
    values = {}
    for line in exposition(server).splitlines():
        if not line.startswith("#"):
            name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups()  # type: ignore[union-attr]
            pairs = sorted(re.findall(r'(\w+)="([^"]*)"', labels or ""))
            values[" ".join([name, *(value for _, value in pairs)])] = float(value)
    return values


def wait_until_equal(measured: Callable[[], object], expected: object) -> None:
    """What a request ends with is counted just after its answer."""
    deadline = time.monotonic() + WAIT_S
    while measured() != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    assert measured() == expected


class Watch:
    """What changes on an otherwise idle server."""

    def __init__(self, server: TritonServer) -> None:
        self._server = server
        wait_until_equal(lambda: (self.running("whole"), self.running("stream")), (0, 0))
        self._before = series(server)

    def running(self, mode: str) -> float:
        return series(self._server)[f"tritone_requests_running {mode}"]

    def changes(self, name: str) -> dict[str, float]:
        """By the values of the labels."""
        return {
            key.removeprefix(name).strip(): value - self._before[key]
            for key, value in series(self._server).items()
            if key.split()[0] == name and value != self._before[key]
        }

    def expect_requests(self, expected: dict[str, float]) -> None:
        """So many ended; keys: mode, outcome, voice."""
        wait_until_equal(lambda: self.changes("tritone_requests_total"), expected)


def test_every_documented_metric_is_there_from_the_start_and_no_other(server: TritonServer) -> None:
    text = exposition(server)
    kinds = dict(re.findall(r"^# TYPE (tritone_\w+) (\w+)$", text, re.MULTILINE))
    rows = re.findall(r"^\| `(tritone_\w+)` \| (\w+) \|", DOCUMENTATION.read_text(), re.MULTILINE)
    assert kinds == dict(rows)
    for name, labels in documented_labels().items():
        (found,) = {
            frozenset(re.findall(r'(\w+)="', line)) - {"le"}
            for line in text.splitlines()
            if re.match(rf"{name}(_bucket|_sum|_count)?[ {{]", line)
        }
        assert found == labels, name


def test_what_alerts_and_dashboard_ask_for_is_there(server: TritonServer) -> None:
    with Tritone(server.grpc_url, timeout_s=60) as tritone:
        tritone.synthesize("hello world", voice=VOICE, seed=1)
    there = {key.split()[0] for key in series(server)}
    asked = {name for expression in expressions() for name in metric_names(expression)}
    assert asked - there == ELSEWHERE


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_no_complaint_about_our_metrics(server: TritonServer) -> None:
    ours = [line for line in exposition(server).splitlines() if "tritone_" in line]
    check = subprocess.run(
        ["promtool", "check", "metrics"], input="\n".join([*ours, ""]), capture_output=True, text=True
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, "")


def test_requests_of_both_modes_are_counted_and_timed(server: TritonServer) -> None:
    watch = Watch(server)
    with Tritone(server.grpc_url, timeout_s=60) as tritone:
        whole = tritone.synthesize("good morning my friend", voice=VOICE, seed=1)
        began_at_s = time.monotonic()
        streamed = list(tritone.stream("good morning my friend", voice=VOICE, seed=1))
        stream_s = time.monotonic() - began_at_s
    watch.expect_requests({"whole ok controlled": 1, "stream ok controlled": 1})
    streamed_s = sum(piece.duration_s for piece in streamed)
    assert watch.changes("tritone_audio_seconds_total") == pytest.approx(
        {"whole": whole.duration_s, "stream": streamed_s}
    )
    assert watch.changes("tritone_first_audio_seconds_count") == {"whole": 1, "stream": 1}
    assert watch.changes("tritone_real_time_factor_count") == {"whole": 1, "stream": 1}
    assert 0 < watch.changes("tritone_first_audio_seconds_sum")["stream"] < stream_s
    assert 0 < watch.changes("tritone_real_time_factor_sum")["stream"] * streamed_s < stream_s
    assert not watch.changes("tritone_requests_waiting")


def test_a_reference_is_a_miss_once_and_a_hit_after_that(server: TritonServer) -> None:
    watch = Watch(server)
    audio = ReferenceVoice.from_file(PROJECT_DIR / "demo" / "reference.wav")
    unheard = ReferenceVoice(audio.waveform * np.float32(0.987))
    with Tritone(server.grpc_url, timeout_s=60) as tritone:
        for _ in range(3):
            tritone.synthesize("hello", voice=unheard, seed=1)
    watch.expect_requests({"whole ok reference": 3})
    assert watch.changes("tritone_voice_cache_lookups_total") == {"whole miss": 1, "whole hit": 2}


def test_a_wrong_request_is_the_callers_fault(server: TritonServer) -> None:
    watch = Watch(server)
    with Tritone(server.grpc_url, timeout_s=60) as tritone:
        with pytest.raises(TritoneError, match="target_text is empty"):
            tritone.synthesize(" ", voice=VOICE)
        with pytest.raises(TritoneError, match="max_audio_s must be"):
            next(tritone.stream("hello", voice=VOICE, max_audio_s=-1))
    watch.expect_requests({"whole invalid unknown": 1, "stream invalid unknown": 1})
    assert not watch.changes("tritone_first_audio_seconds_count")


def test_who_leaves_or_finds_no_place_is_counted(small_server: TritonServer) -> None:
    watch = Watch(small_server)
    assert series(small_server)["tritone_requests_limit stream"] == SMALL_SERVER_PLACES
    with Tritone(small_server.grpc_url, timeout_s=60, num_retries=1) as tritone, ExitStack() as streams:
        for seed in range(SMALL_SERVER_PLACES):
            pieces = tritone.stream(LONG_TEXT, voice=VOICE, seed=seed)
            streams.callback(pieces.close)
            next(pieces)
        assert watch.running("stream") == SMALL_SERVER_PLACES
        assert series(small_server)["tritone_requests_waiting stream"] == 0  # all have heard something
        with pytest.raises(Unavailable):
            next(tritone.stream(LONG_TEXT, voice=VOICE))
    # the client tries again, once
    watch.expect_requests({"stream cancelled controlled": SMALL_SERVER_PLACES, "stream unavailable unknown": 2})
    assert watch.running("stream") == 0
    assert watch.changes("tritone_audio_seconds_total")["stream"] > 0
    assert not watch.changes("tritone_real_time_factor_count")
