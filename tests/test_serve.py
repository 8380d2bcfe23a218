"""The launcher, with the real tritonserver and models of a few lines."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc

from tests.waiting import wait_until
from tritone import serve
from tritone.serve import SHARED_MEMORY_DIR, ServerError, TritonServer

FreePorts = Callable[[], dict[str, int]]

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 0
input {{ name: "SECONDS" data_type: TYPE_FP32 dims: [ 1 ] }}
output {{ name: "SECONDS" data_type: TYPE_FP32 dims: [ 1 ] }}
instance_group {{ kind: KIND_CPU count: 1 }}
"""

# Answers after as many seconds as it was sent. Imports the project's package, as every real model does.
MODEL = """
import time

import tritone.errors
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.wait(pb_utils.get_input_tensor_by_name(request, "SECONDS")) for request in requests]

    def wait(self, seconds):
        time.sleep(float(seconds.as_numpy()[0]))
        return pb_utils.InferenceResponse([seconds])
"""
ENDED_TIMEOUT_S = 30


def add_model(repository: Path, name: str, source: str = MODEL, config: str | None = None) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.py").write_text(source)
    (repository / name / "config.pbtxt").write_text(CONFIG.format(name=name) if config is None else config)


def ask(server: TritonServer, seconds: float) -> float:
    tensor = tritonclient.grpc.InferInput("SECONDS", [1], "FP32")
    tensor.set_data_from_numpy(np.array([seconds], np.float32))
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        return float(client.infer("sleeper", [tensor]).as_numpy("SECONDS")[0])


def shared_memory_of(launcher_pid: int) -> list[Path]:
    return list(SHARED_MEMORY_DIR.glob(f"tritone-{launcher_pid}-*"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    add_model(folder, "sleeper")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, free_ports: FreePorts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    log_path = tmp_path_factory.mktemp("log") / "tritonserver.log"
    with TritonServer(repository, log_path=log_path, **free_ports()) as running:
        yield running


class Launcher:
    """`python -m tritone.serve` as a process of its own, once it says that it is ready."""

    def __init__(self, repository: Path, ports: dict[str, int], log_path: Path) -> None:
        options = [f"--{name.replace('_', '-')}={port}" for name, port in ports.items()]
        command = [sys.executable, "-m", "tritone.serve", f"--model-repository={repository}", *options]
        self.log_path = log_path
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        wait_until(lambda: b"ready: gRPC" in log_path.read_bytes())
        self.descendants = psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def launcher(repository: Path, free_ports: FreePorts, tmp_path: Path) -> Iterator[Launcher]:
    started = Launcher(repository, free_ports(), tmp_path / "log")
    yield started
    started.process.kill()
    started.process.wait()


def test_models_answer_as_soon_as_start_returns(server: TritonServer) -> None:
    assert ask(server, 0.0) == 0.0


def test_every_port_listens_on_loopback_only(server: TritonServer) -> None:
    listening = [
        connection.laddr
        for connection in psutil.Process(server.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]

    assert {address.port for address in listening} == {server.http_port, server.grpc_port, server.metrics_port}
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_second_server_runs_beside_the_first(
    server: TritonServer, repository: Path, free_ports: FreePorts, tmp_path: Path
) -> None:
    with TritonServer(repository, log_path=tmp_path / "log", **free_ports()) as second:
        assert ask(second, 0.0) == 0.0
        assert ask(server, 0.0) == 0.0

    assert ask(server, 0.0) == 0.0


@pytest.mark.parametrize("port", ["http_port", "grpc_port", "metrics_port"])
def test_taken_port_is_named_with_the_variable_that_changes_it(
    repository: Path, free_ports: FreePorts, port: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]

        with pytest.raises(ServerError, match=rf"port {number} .*{port.upper()}="):
            TritonServer(repository, **free_ports() | {port: number}).start()


def test_model_that_does_not_load_is_named_with_the_reason(tmp_path: Path, free_ports: FreePorts) -> None:
    add_model(tmp_path / "repository", "sleeper")
    add_model(tmp_path / "repository", "broken", source="import a_package_that_is_not_there")
    server = TritonServer(tmp_path / "repository", log_path=tmp_path / "log", **free_ports())
    shared_memory_before = shared_memory_of(os.getpid())

    with pytest.raises(ServerError, match=r"model broken failed to load: .*a_package_that_is_not_there"):
        server.start()

    assert server.pid is None
    assert shared_memory_of(os.getpid()) == shared_memory_before


def test_model_with_an_invalid_config_is_named(tmp_path: Path, free_ports: FreePorts) -> None:
    add_model(tmp_path / "repository", "broken", config="max_batch_size: many")

    with pytest.raises(ServerError, match="model broken failed to load"):
        TritonServer(tmp_path / "repository", log_path=tmp_path / "log", **free_ports()).start()


def test_missing_repository_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="nowhere is not a folder"):
        TritonServer(tmp_path / "nowhere").start()


def test_running_request_is_answered_before_the_server_stops(
    repository: Path, free_ports: FreePorts, tmp_path: Path
) -> None:
    server = TritonServer(repository, log_path=tmp_path / "log", **free_ports())
    server.start()
    with ThreadPoolExecutor() as executor:
        answer = executor.submit(ask, server, 2.0)
        time.sleep(0.5)  # the request must be in the model before the stop is

        server.stop()

        assert answer.result() == 2.0
    assert server.pid is None


@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGTERM])
def test_launcher_stops_in_order_when_it_is_asked_to(launcher: Launcher, stop_signal: signal.Signals) -> None:
    launcher.process.send_signal(stop_signal)

    assert launcher.process.wait(ENDED_TIMEOUT_S) == 0
    assert not any(process.is_running() for process in launcher.descendants)
    assert shared_memory_of(launcher.process.pid) == []


def test_killed_launcher_leaves_no_process_and_no_shared_memory(launcher: Launcher) -> None:
    launcher.process.kill()

    _, alive = psutil.wait_procs(launcher.descendants, ENDED_TIMEOUT_S)
    assert alive == []
    assert shared_memory_of(launcher.process.pid) == []


def test_launcher_fails_when_its_server_crashes(launcher: Launcher) -> None:
    tritonserver = launcher.descendants[0]

    tritonserver.kill()

    assert launcher.process.wait(ENDED_TIMEOUT_S) == 1
    assert shared_memory_of(launcher.process.pid) == []


def test_killed_model_process_ends_the_launcher_with_its_name(launcher: Launcher) -> None:
    stub = launcher.descendants[-1]
    assert "triton_python_backend_stub" in stub.cmdline()[0]

    stub.kill()

    assert launcher.process.wait(ENDED_TIMEOUT_S) == 1
    assert b"error: the process of the model sleeper died" in launcher.log_path.read_bytes()
    assert shared_memory_of(launcher.process.pid) == []


def test_full_disk_costs_the_log_and_nothing_else(
    repository: Path, free_ports: FreePorts, capfd: pytest.CaptureFixture[str]
) -> None:
    with TritonServer(repository, log_path=Path("/dev/full"), **free_ports()) as server:
        assert ask(server, 0.0) == 0.0

    assert capfd.readouterr().err.count("lines of the server's log are lost: [Errno 28] No space left on device") == 1


def test_log_that_cannot_be_written_is_named(repository: Path, tmp_path: Path, free_ports: FreePorts) -> None:
    with pytest.raises(ServerError, match=r"the log .*/nowhere/log cannot be written \(No such file or directory\)"):
        TritonServer(repository, log_path=tmp_path / "nowhere" / "log", **free_ports()).start()


def test_temporary_folder_that_cannot_be_written_is_named(
    repository: Path, tmp_path: Path, free_ports: FreePorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))

    with pytest.raises(ServerError, match=r"temporary files cannot be written .*nowhere.*TMPDIR"):
        TritonServer(repository, log_path=tmp_path / "log", **free_ports()).start()


def test_voices_dir_that_is_a_file_is_named(
    repository: Path, tmp_path: Path, free_ports: FreePorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "voices").touch()
    monkeypatch.setenv("VOICES_DIR", str(tmp_path / "voices"))

    with pytest.raises(ServerError, match=r"VOICES_DIR: .*voices is not a folder that can be read"):
        TritonServer(repository, log_path=tmp_path / "log", **free_ports()).start()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("EXIT_TIMEOUT_S", "soon", "EXIT_TIMEOUT_S must be a number of seconds, got 'soon'"),
        ("EXIT_TIMEOUT_S", "-1", "EXIT_TIMEOUT_S must be"),
        ("ADMIN_KEY", "short", "ADMIN_KEY must have at least 16 characters"),
        ("TLS_CERT", "server.pem", "TLS_CERT and TLS_KEY belong together"),
    ],
)
def test_setting_that_cannot_be_used_is_one_line_and_exit_code_1(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the tests' own process keeps its handlers

    assert serve.main(["--model-repository", str(repository)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_start_removes_what_killed_servers_left(repository: Path, free_ports: FreePorts, tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    leftover = SHARED_MEMORY_DIR / f"tritone-{gone.pid}-region"
    leftover.touch()

    with TritonServer(repository, log_path=tmp_path / "log", **free_ports()):
        assert not leftover.exists()


def test_tritonserver_on_the_path_is_preferred_to_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_the_container = tmp_path / "tritonserver"
    of_the_container.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    assert serve.find_installation(tmp_path) == serve.Installation(of_the_container)
