"""`python -m tritone.serve` as a process of its own, as a supervisor starts it."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from tritone.serve import READY_TIMEOUT_S, free_ports


class Launched:
    """A launcher that has said that its server is ready."""

    host = "127.0.0.1"

    def __init__(self, repository: Path, log_path: Path, environment: Mapping[str, str]) -> None:
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        self.log_path = log_path
        command = [
            *(sys.executable, "-m", "tritone.serve", f"--model-repository={repository}"),
            *(f"--http-port={self.http_port}", f"--grpc-port={self.grpc_port}", f"--metrics-port={self.metrics_port}"),
        ]
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
            )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while "ready: gRPC" not in self.log():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    @property
    def grpc_url(self) -> str:
        return f"{self.host}:{self.grpc_port}"

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def health(self, kind: str) -> int:
        """The HTTP status of /v2/health/`kind`; 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self.http_port}/v2/health/{kind}", timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()  # a stopping Triton waits for open connections
            return error.code
        except OSError:
            return 0

    def tritonserver(self) -> psutil.Process:
        """The launcher's only child."""
        (process,) = psutil.Process(self.process.pid).children()
        return process

    def model_process(self, model: str) -> psutil.Process:
        """The process that runs a model's Python."""
        return next(
            stub for stub in self.tritonserver().children() if any(f"/{model}/1/" in word for word in stub.cmdline())
        )

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def launched(repository: Path, log_path: Path, environment: Mapping[str, str] | None = None) -> Iterator[Launched]:
    """A launcher with the given settings; whatever a test does with it, it has ended after that."""
    launcher = Launched(repository, log_path, environment or {})
    try:
        yield launcher
    finally:
        launcher.process.kill()
        launcher.process.wait()
