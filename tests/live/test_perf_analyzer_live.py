"""NVIDIA's perf_analyzer and tritone_client measure the same first-response latency on the same server."""

import math

import pytest

from benchmark.perf_analyzer import PerfAnalyzerMissing, check_perf_analyzer, measure_peers
from tritone.serve import TritonServer


def test_both_measure_the_first_response(server: TritonServer) -> None:
    """How well they agree is for `make peer` to say: a busy machine must not fail a test.

    To take one for the other, of speech as long as this, would be a factor of twenty.
    """
    try:
        check_perf_analyzer()
    except PerfAnalyzerMissing as missing:
        pytest.skip(str(missing))

    peers = measure_peers(server.grpc_url, concurrency=2, requests_per_round=2, fixed_tokens=750)

    first, end = peers.first_response, peers.end
    assert abs(math.log(first.ours_s / first.theirs_s)) < abs(math.log(first.ours_s / end.theirs_s)) / 2, peers
