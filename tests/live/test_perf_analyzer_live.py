"""NVIDIA's perf_analyzer and tritone_client measure the same first-response latency on the same server."""

import math

import pytest

from benchmark.perf_analyzer import PerfAnalyzerMissing, check_perf_analyzer, compare_medians, measure_peers
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

    firsts = peers.first_response
    ends = compare_medians(
        [latencies.first_response_s for latencies in peers.ours], [latencies.end_s for latencies in peers.theirs]
    )
    assert abs(math.log(firsts.ours_s / firsts.theirs_s)) < abs(math.log(ends.ours_s / ends.theirs_s)) / 2, peers
