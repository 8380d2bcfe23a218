"""NVIDIA's perf_analyzer and tritone_client measure the same first-response latency on the same server."""

import pytest

from benchmark.perf_analyzer import PerfAnalyzerMissing, check_perf_analyzer, compare_medians, measure_peers
from tritone.serve import TritonServer


def test_first_response_latency_agrees_with_perf_analyzer(server: TritonServer) -> None:
    try:
        check_perf_analyzer()
    except PerfAnalyzerMissing as missing:
        pytest.skip(str(missing))

    peers = measure_peers(server.grpc_url, concurrency=2, requests_per_round=4, fixed_tokens=75)

    assert peers.first_response.agrees, peers
    # The agreement means something: had one of them measured the end instead, it would have shown in this very run.
    first_responses = [latencies.first_response_s for latencies in peers.ours]
    ends = [latencies.end_s for latencies in peers.theirs]
    assert not compare_medians(first_responses, ends).agrees, peers
