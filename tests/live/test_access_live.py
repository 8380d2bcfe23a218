"""TLS, client certificates and closed endpoints, on real servers, with certificates made here."""

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import trustme
from tritonclient.utils import InferenceServerException
from tritone_client import ControlledVoice, ReferenceVoice, Speech, Tls, Tritone, TritoneError, Unavailable
from tritone_client.cli import main

from benchmark.results import Run
from demo.lines import REFERENCE_TRANSCRIPT, REFERENCE_WAV
from tritone.access import Access
from tritone.serve import TritonServer

LINE = "the weather is nice"
VOICE = ControlledVoice("female", pitch="high")
ADMIN_KEY = "a-key-for-this-test-only"
REFERENCE_TOO_SHORT = np.zeros(100, np.float32)
HEADER = "triton-grpc-protocol-admin-key"


@dataclass(frozen=True)
class Certificates:
    """PEM files: of the server, which is called `localhost`, of a client, and of who signed both."""

    authority: Path
    stranger: Path  # another authority
    server: Path
    server_key: Path
    client: Path
    client_key: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "stranger.pem"))
    for name, issued in (
        ("server", authority.issue_cert("localhost")),
        ("client", authority.issue_cert(common_name="a client", organization_name="clients")),
    ):
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        for pem in issued.cert_chain_pems:
            pem.write_to_path(str(folder / f"{name}.pem"), append=True)
    files = ("ca.pem", "stranger.pem", "server.pem", "server.key", "client.pem", "client.key")
    return Certificates(*(folder / file for file in files))


@pytest.fixture(scope="module")
def mutual(
    demo_repository: Path, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """A server that asks for client certificates."""
    access = Access(certificates.server, certificates.server_key, certificates.authority, ADMIN_KEY)
    log_path = tmp_path_factory.mktemp("mutual") / "log"
    with TritonServer.on_free_ports(demo_repository, log_path=log_path, access=access) as running:
        yield running


@pytest.fixture
def tls(certificates: Certificates) -> Tls:
    return Tls(certificates.authority, certificates.client, certificates.client_key)


def url(server: TritonServer) -> str:
    return f"localhost:{server.grpc_port}"


def http_status(server: TritonServer, path: str, body: bytes | None = None) -> int:
    try:
        with urllib.request.urlopen(f"http://{server.http_url}{path}", data=body, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()  # a stopping Triton waits for open connections
        return error.code


def test_client_with_a_certificate_is_served_by_all_models(mutual: TritonServer, tls: Tls) -> None:
    with Tritone(url(mutual), timeout_s=60, tls=tls) as tritone:
        voice = tritone.make_voice(ReferenceVoice.from_file(REFERENCE_WAV, REFERENCE_TRANSCRIPT))
        assert tritone.synthesize(LINE, voice=voice).duration_s > 0.3
        assert Speech.join(tritone.stream(LINE, voice=VOICE)).end_reason == "complete"


def test_command_line_speaks_tls(mutual: TritonServer, certificates: Certificates, tmp_path: Path) -> None:
    said = ["say", LINE, "--gender", "male", "-o", str(tmp_path / "out.wav"), "--url", url(mutual)]
    proof = ["--tls-cert", str(certificates.client), "--tls-key", str(certificates.client_key)]

    assert main([*said, "--tls", "--tls-ca", str(certificates.authority), *proof]) == 0
    assert main([*said, "--tls-ca", str(certificates.authority)]) == 2


def test_load_benchmark_speaks_tls(mutual: TritonServer, certificates: Certificates, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmark", "run", "--url", url(mutual), "--out", str(tmp_path)]
    load = ["--worklist", "demo", "--mode", "whole", "--concurrency", "1", "--requests", "1", "--warm-up", "0"]
    proof = ["--tls-cert", str(certificates.client), "--tls-key", str(certificates.client_key)]
    done = subprocess.run(
        [*command, *load, "--tls", "--tls-ca", str(certificates.authority), *proof], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (measurement,) = Run.load(tmp_path / "run.json").measurements
    assert [request.error for request in measurement.requests] == [None]


@pytest.mark.parametrize("kind", ["plain", "no client certificate", "a stranger's server"])
def test_who_cannot_prove_anything_is_not_served(mutual: TritonServer, certificates: Certificates, kind: str) -> None:
    tls = {
        "plain": None,
        "no client certificate": Tls(certificates.authority),
        "a stranger's server": Tls(certificates.stranger, certificates.client, certificates.client_key),
    }[kind]
    with Tritone(url(mutual), timeout_s=10, tls=tls) as tritone, pytest.raises(Unavailable):
        tritone.synthesize(LINE, voice=VOICE)


def test_http_beside_tls_answers_health_alone(mutual: TritonServer) -> None:
    assert http_status(mutual, "/v2/health/ready") == http_status(mutual, "/v2/health/live") == 200
    for path in ("/v2", "/v2/models/spark_tts/config", "/v2/models/spark_tts", "/v2/models/stats"):
        assert http_status(mutual, path) == 403, path
    for path in ("/v2/models/spark_tts/infer", "/v2/models/spark_tts/generate", "/v2/repository/index"):
        assert http_status(mutual, path, b"{}") == 403, path


def test_management_is_open_to_the_key_alone(mutual: TritonServer, certificates: Certificates) -> None:
    options = {
        "ssl": True,
        "root_certificates": str(certificates.authority),
        "private_key": str(certificates.client_key),
        "certificate_chain": str(certificates.client),
    }
    with tritonclient.grpc.InferenceServerClient(url(mutual), **options) as client:
        for headers in (None, {HEADER: "another-key-of-that-length"}):
            with pytest.raises(InferenceServerException, match="restricted"):
                client.get_model_repository_index(headers=headers)
        names = [model.name for model in client.get_model_repository_index(headers={HEADER: ADMIN_KEY}).models]
        assert "spark_tts" in names


def test_server_s_certificate_alone_is_enough_without_client_certificates(
    demo_repository: Path, certificates: Certificates, tmp_path: Path
) -> None:
    access = Access(certificates.server, certificates.server_key)
    server = TritonServer.on_free_ports(demo_repository, log_path=tmp_path / "log", access=access)
    with server, Tritone(url(server), timeout_s=60, tls=Tls(certificates.authority)) as tritone:
        assert Speech.join(tritone.stream(LINE, voice=VOICE)).end_reason == "complete"


def test_nobody_manages_a_plain_server_that_was_given_no_key(server: TritonServer) -> None:
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        for manage in (
            client.get_model_repository_index,
            lambda: client.unload_model("vocoder"),
            lambda: client.load_model("vocoder"),
            client.get_system_shared_memory_status,
            client.get_trace_settings,
            lambda: client.update_log_settings({"log_verbose_level": 1}),
        ):
            with pytest.raises(InferenceServerException, match="restricted"):
                manage()
        assert client.get_model_metadata("spark_tts").name == "spark_tts"
    for path in ("/v2/repository/index", "/v2/repository/models/vocoder/unload"):
        assert http_status(server, path, b"{}") == 403, path
    for path in ("/v2/systemsharedmemory/status", "/v2/trace/setting", "/v2/logging"):
        assert http_status(server, path) == 403, path
    assert http_status(server, "/v2/models/spark_tts") == 200


def test_log_tells_nothing_of_what_is_said_and_by_whom(mutual: TritonServer, tls: Tls) -> None:
    secret = "the quick zebra of mister example"
    with Tritone(url(mutual), timeout_s=60, tls=tls) as tritone:
        voice = tritone.make_voice(ReferenceVoice.from_file(REFERENCE_WAV, secret))
        tritone.synthesize(secret, voice=voice)
        list(tritone.stream(secret, voice=VOICE, seed=3))
        with pytest.raises(TritoneError):
            tritone.synthesize(secret * 1000, voice=voice)
        with pytest.raises(TritoneError):
            list(tritone.stream(secret, voice=ReferenceVoice.from_waveform(REFERENCE_TOO_SHORT, 16000, secret)))
    log = mutual.log_path.read_text()
    assert "zebra" not in log and "mister" not in log
    assert ", ".join(map(str, voice.global_tokens[:4].tolist())) not in log
    assert " ".join(map(str, voice.global_tokens[:4].tolist())) not in log
    assert ADMIN_KEY not in log
