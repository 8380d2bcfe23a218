"""Start a real `tritonserver` on a model repository and stop it without leaving anything behind.

`python -m tritone.serve --model-repository DIR` serves until Ctrl-C or SIGTERM; `TritonServer` does the same
for the demo, the tests and the benchmark.

A container brings its own tritonserver, which is used where it exists. Anywhere else the server comes from
the `nvidia-pytriton` wheel, whose parts have to be put together first: see `_wheel_installation`.
"""

import argparse
import base64
import contextlib
import ctypes.util
import http.client
import importlib.util
import json
import math
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import BinaryIO

from tritone import tracing
from tritone.access import ADMIN_HEADER, Access, AccessError
from tritone.draining import DRAINING_DIR_VARIABLE, drained
from tritone.inference import GRPC_URL_VARIABLE, INNER_TLS_DIR_VARIABLE
from tritone.turns import TURNS_DIR_VARIABLE
from tritone.voices import VOICES_DIR_VARIABLE

DEFAULT_HOST = "127.0.0.1"
DEFAULT_HTTP_PORT = 8000
DEFAULT_GRPC_PORT = 8001
DEFAULT_METRICS_PORT = 8002

CONTAINER_TRITONSERVER = Path("/opt/tritonserver/bin/tritonserver")
SHARED_MEMORY_DIR = Path("/dev/shm")  # where Linux keeps POSIX shared memory

# Also the limit for each Python model; Triton's own, 30 s, is too short for large weights on a slow disk.
READY_TIMEOUT_S = 300
# How long running requests may take to come to their end after a stop was asked for.
EXIT_TIMEOUT_S = 30.0
# How long tritonserver may take after that. It waits for HTTP clients to close their idle connections: close them
# before their server.
TRITON_EXIT_TIMEOUT_S = 10
KILL_TIMEOUT_S = 15  # its models unload after that
POLL_INTERVAL_S = 0.1
# How often it is looked whether the models' processes live. One that died is noticed within two of these.
WATCH_INTERVAL_S = 0.5

# Every Python model takes this much shared memory at once and grows by as much when it needs more.
SHARED_MEMORY_STEP_BYTES = 4 * 1024 * 1024

# Put before a command: the kernel stops it when the thread that started it is gone. (A preexec_fn would not be
# safe in a process with threads. The stubs need nothing of the kind: they end when their tritonserver has.)
_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "TERM", "--")

_NUM_LOG_LINES_IN_ERROR = 20
# Triton writes the reason's line ends as two characters; what follows the first of them is a traceback.
_FAILED_MODEL = re.compile(
    r"(failed to load|Poll failed for model directory) '(?P<model>[^']+)'( version \d+)?: (?P<reason>.*?)(\\n|\"|$)"
)


class ServerError(RuntimeError):
    """The server could not be started; the message says why and, where known, what to do about it."""


@dataclass(frozen=True)
class Installation:
    """A tritonserver that can be run.

    Attributes:
        executable: the `tritonserver` program
        backend_directory: the folder of its backends, None when the program knows its own
        library_paths: folders that its processes look for shared libraries in, besides the usual ones
    """

    executable: Path
    backend_directory: Path | None = None
    library_paths: tuple[Path, ...] = ()


class TritonServer:
    """A tritonserver process with every model of a repository, as a context manager.

    It is up, with every model ready, from the end of `start` until `stop`. It also ends when this process
    ends, however that happens: the kernel then sends it SIGTERM. That is tied to the *thread* that calls `start`, so
    call it from one that lives as long as the server shall.

    When the process of one of its models dies, the server is killed: Triton would let the requests to that model wait
    for ever. So all running requests fail at once, and whoever watches the server starts a new one.

    Args:
        model_repository: the folder whose sub-folders are the models
        host: the address that all three ports listen on
        http_port, grpc_port, metrics_port: the ports
        access: TLS, and who may manage the server; plain and nobody unless said
        exit_timeout_s: how long `stop` waits for running requests
        extra_args: further arguments for tritonserver, taken as they are
        log_path: the file that the server's log goes to; without one it goes to stderr
    """

    def __init__(
        self,
        model_repository: Path,
        *,
        host: str = DEFAULT_HOST,
        http_port: int = DEFAULT_HTTP_PORT,
        grpc_port: int = DEFAULT_GRPC_PORT,
        metrics_port: int = DEFAULT_METRICS_PORT,
        access: Access | None = None,
        exit_timeout_s: float = EXIT_TIMEOUT_S,
        extra_args: Sequence[str] = (),
        log_path: Path | None = None,
    ) -> None:
        self.model_repository = model_repository
        self.host = host
        self.http_port = http_port
        self.grpc_port = grpc_port
        self.metrics_port = metrics_port
        self.access = access or Access()
        self.exit_timeout_s = exit_timeout_s
        self.extra_args = tuple(extra_args)
        self.log_path = log_path
        # On HTTP the administrator's key would cross the network in the clear: only the launcher has one there, if the
        # others are to use TLS.
        self._http_key = secrets.token_urlsafe() if self.access.has_tls else self.access.admin_key
        self._process: subprocess.Popen[bytes] | None = None
        self._log: _LogForwarder | None = None
        self._watch: _ModelWatch | None = None
        self._scratch = Path()
        self._resources = contextlib.ExitStack()

    @classmethod
    def on_free_ports(cls, model_repository: Path, *, log_path: Path, access: Access | None = None) -> "TritonServer":
        """A server on ports that nobody listens on, for programs that bring their own client."""
        http_port, grpc_port, metrics_port = free_ports(3)
        return cls(
            model_repository,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            access=access,
            log_path=log_path,
        )

    @property
    def http_url(self) -> str:
        """`host:port` as Triton's HTTP client takes it."""
        return f"{_bracketed(_connectable(self.host))}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        """`host:port` as Triton's gRPC client takes it."""
        return f"{_bracketed(_connectable(self.host))}:{self.grpc_port}"

    @property
    def pid(self) -> int | None:
        """The process id of tritonserver, None when it is not running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the server and wait until every model is ready.

        Raises:
            ServerError: a port is taken, a folder cannot be used, tritonserver cannot be run, a model does not load, or
                the models are not ready within READY_TIMEOUT_S. Nothing is left running then.
        """
        if self._process is not None:
            raise ServerError("this server was started before")
        if not self.model_repository.is_dir():
            raise ServerError(f"model repository {self.model_repository} is not a folder")
        _check_ports_are_free(
            self.host,
            {"HTTP_PORT": self.http_port, "GRPC_PORT": self.grpc_port, "METRICS_PORT": self.metrics_port},
        )
        _check_voices_dir()
        _remove_leftovers()
        try:
            self._launch()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Let running requests come to their end, then stop the server; a Ctrl-C meanwhile stops it at once.

        From the call on the server is not ready and answers new requests with UNAVAILABLE. Calling it again does
        nothing.
        """
        if self._process is not None:
            if self.pid is not None:
                with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                    self._stop_in_order(self._process)
            with contextlib.suppress(ProcessLookupError):  # nothing is left of it, as a rule
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._log is not None:
            self._log.join()
        self._resources.close()

    def wait(self) -> str:
        """Wait until the server ends without `stop` (it crashed, or somebody else stopped it); what happened."""
        if self._process is None or self._watch is None:
            raise ServerError("the server was not started")
        exit_code = self._process.wait()
        return self._watch.finding() or f"tritonserver ended by itself with exit code {exit_code}"

    def __enter__(self) -> "TritonServer":
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self) -> None:
        # The name says whose it is: what a killed server left behind can be told by its process id.
        name = f"tritone-{os.getpid()}-{secrets.token_hex(4)}"
        self._resources.callback(_remove_shared_memory, name)
        sink = self._open_log()
        try:
            self._scratch = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix=f"{name}-")))
            installation = find_installation(self._scratch)
            if self.access.has_tls:
                self.access.write_inner_tls(self._scratch)
        except OSError as error:
            raise ServerError(f"temporary files cannot be written ({error}): TMPDIR names a folder for them") from error
        self._process = subprocess.Popen(
            [*_DIE_WITH_PARENT, *self._command(installation, shared_memory_prefix=name)],
            env=_environment(installation, os.environ) | self._variables_of_models(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A session of its own: Ctrl-C in the terminal reaches us alone, and we stop the server in order.
            start_new_session=True,
        )
        self._log = _LogForwarder(self._process, sink)

    def _open_log(self) -> BinaryIO:
        if self.log_path is None:
            return sys.stderr.buffer
        try:
            return self._resources.enter_context(self.log_path.open("wb", buffering=0))
        except OSError as error:
            raise ServerError(f"the log {self.log_path} cannot be written ({error.strerror})") from error

    def _variables_of_models(self) -> dict[str, str]:
        variables = {
            GRPC_URL_VARIABLE: self.grpc_url,
            TURNS_DIR_VARIABLE: str(self._scratch),
            DRAINING_DIR_VARIABLE: str(self._scratch),
        }
        return variables | ({INNER_TLS_DIR_VARIABLE: str(self._scratch)} if self.access.has_tls else {})

    def _command(self, installation: Installation, shared_memory_prefix: str) -> list[str]:
        arguments: dict[str, object] = {
            "model-repository": self.model_repository,
            "http-address": self.host,
            "http-port": self.http_port,
            "grpc-address": self.host,
            "grpc-port": self.grpc_port,
            "metrics-address": self.host,
            "metrics-port": self.metrics_port,
            "exit-timeout-secs": TRITON_EXIT_TIMEOUT_S,
            "model-control-mode": "explicit",  # all models at once, but the launcher can ask for more: `_end_readiness`
            "load-model": "*",
        }
        if installation.backend_directory is not None:
            arguments["backend-directory"] = installation.backend_directory
        python_backend = {
            "shm-region-prefix-name": shared_memory_prefix,
            "shm-default-byte-size": SHARED_MEMORY_STEP_BYTES,
            "shm-growth-byte-size": SHARED_MEMORY_STEP_BYTES,
            "stub-timeout-seconds": READY_TIMEOUT_S,
        }
        try:
            trace_arguments = tracing.server_arguments()
        except ImportError as error:
            raise ServerError(str(error)) from error
        return [
            str(installation.executable),
            *(f"--{name}={value}" for name, value in arguments.items()),
            *(f"--backend-config=python,{name}={value}" for name, value in python_backend.items()),
            *self.access.server_arguments(self._http_key, self._scratch),
            *trace_arguments,
            *self.extra_args,
        ]

    def _wait_until_ready(self) -> None:
        assert self._process is not None and self._log is not None
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not _is_ready(_connectable(self.host), self.http_port):
            if self._process.poll() is not None:
                self._log.join()
                exit_code = self._process.returncode
                raise ServerError(self._log.explain(f"tritonserver ended with exit code {exit_code}"))
            if time.monotonic() > deadline:
                raise ServerError(self._log.explain(f"the models were not ready within {READY_TIMEOUT_S} s"))
            time.sleep(POLL_INTERVAL_S)
        self._watch = _ModelWatch(self._process)

    def _stop_in_order(self, process: subprocess.Popen[bytes]) -> None:
        """Raises TimeoutExpired when the server does not end."""
        with contextlib.ExitStack() as stack:
            if self._watch is not None:  # it was ready
                self._watch.stop()
                self._end_readiness()
                stack.enter_context(drained(self._scratch, self.exit_timeout_s))
            process.terminate()
            process.wait(timeout=KILL_TIMEOUT_S)

    def _end_readiness(self) -> None:
        """Make the server say that it is not ready.

        Triton has no such command, but is not ready when a model of it could not be loaded: this one has no backend.
        """
        model = {"config": '{"backend": "none"}', "file:1/model": base64.b64encode(b"none").decode()}
        connection = http.client.HTTPConnection(_connectable(self.host), self.http_port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            path, body = "/v2/repository/models/the_server_is_stopping/load", json.dumps({"parameters": model})
            connection.request("POST", path, body, {ADMIN_HEADER: self._http_key})
            connection.getresponse().read()


class _ModelWatch:
    """Kills a server when the process of one of its models has died, which Triton does not mind."""

    def __init__(self, server: subprocess.Popen[bytes]) -> None:
        self._server = server
        self._models: dict[int, str] = {}  # by process; what has died does not tell its name any more
        self._look()
        self._finding: str | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """From now on processes may end."""
        self._stopped.set()
        self._thread.join()

    def finding(self) -> str | None:
        """What was found when the server was killed; None if it has ended in another way."""
        self._thread.join()
        return self._finding

    def _run(self) -> None:
        found_dead: set[int] = set()
        while not self._stopped.wait(WATCH_INTERVAL_S) and self._server.poll() is None:
            dead = self._look()
            if still_dead := dead & found_dead:
                names = ", ".join(sorted(self._models[pid] for pid in still_dead))
                self._finding = f"the process of the model {names} died, so the server was ended"
                os.killpg(self._server.pid, signal.SIGKILL)
                return
            found_dead = dead

    def _look(self) -> set[int]:
        """The processes that have died. Triton collects one that it has ended itself at once: that is none of them."""
        children = _children(self._server.pid)
        self._models.update({pid: _model_of(pid) for pid in children if pid not in self._models})
        return {pid for pid, state in children.items() if state == "Z"}


class _LogForwarder:
    """Copies a process's output to `sink` as it comes and remembers what an error message needs of it."""

    def __init__(self, process: subprocess.Popen[bytes], sink: BinaryIO) -> None:
        self._process = process
        self._sink = sink
        self._last_lines: deque[str] = deque(maxlen=_NUM_LOG_LINES_IN_ERROR)
        self._failed_models: dict[str, str] = {}
        self._has_failed = False
        self._thread = threading.Thread(target=self._forward, name="tritonserver-log", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until everything that the process wrote has been copied."""
        self._thread.join()

    def explain(self, what: str) -> str:
        """`what` and why: the models that failed to load, or else the last lines of the log."""
        if self._failed_models:
            return "\n".join(f"model {name} failed to load: {why}" for name, why in self._failed_models.items())
        return "\n".join([f"{what}; the end of its log:", *self._last_lines])

    def _forward(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._write(line)
            text = line.decode(errors="replace").rstrip()
            self._last_lines.append(text)
            if failure := _FAILED_MODEL.search(text):
                self._failed_models[failure["model"]] = failure["reason"]

    def _write(self, line: bytes) -> None:
        try:
            self._sink.write(line)
            self._sink.flush()
        except OSError as error:  # a full disk: go on reading, or tritonserver would wait for that
            if not self._has_failed:
                self._has_failed = True
                with contextlib.suppress(OSError):
                    print(f"warning: lines of the server's log are lost: {error}", file=sys.stderr, flush=True)


def free_ports(num_ports: int) -> list[int]:
    """Ports of the loopback address that nobody listens on just now."""
    with contextlib.ExitStack() as bound:
        probes = [bound.enter_context(socket.socket()) for _ in range(num_ports)]
        for probe in probes:
            probe.bind((DEFAULT_HOST, 0))
        return [probe.getsockname()[1] for probe in probes]


def find_installation(scratch: Path) -> Installation:
    """The tritonserver to run: the container's own, else the wheel's.

    Args:
        scratch: an empty folder that lives as long as the server, for what has to be put together

    Raises:
        ServerError: there is none, or something that it needs is missing.
    """
    if (on_path := shutil.which("tritonserver")) is not None:
        return Installation(Path(on_path))
    if CONTAINER_TRITONSERVER.exists():
        return Installation(CONTAINER_TRITONSERVER)
    return _wheel_installation(scratch)


def _wheel_installation(scratch: Path) -> Installation:
    """The tritonserver of the `nvidia-pytriton` wheel, made complete without changing the wheel.

    The wheel carries the Python backend's library and, elsewhere, its stub (the program that runs a model's
    Python) for each version of Python. The library looks for the stub beside itself, so a folder of links brings
    the two together.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ServerError(
            "no tritonserver here: neither a container's nor the wheel nvidia-pytriton (run `make setup`)"
        )
    wheel = Path(spec.origin).parent / "tritonserver"
    python_version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = wheel / "python_backend_stubs" / python_version / "triton_python_backend_stub"
    if not stub.exists():
        raise ServerError(f"the wheel nvidia-pytriton has no stub for Python {python_version}")

    python_backend = scratch / "backends" / "python"
    python_backend.mkdir(parents=True)
    for part in [*(wheel / "backends" / "python").iterdir(), stub]:
        (python_backend / part.name).symlink_to(part)
    return Installation(
        executable=wheel / "bin" / "tritonserver",
        backend_directory=python_backend.parent,
        library_paths=(wheel.parents[1] / "nvidia_pytriton.libs", *_libpython_folder(python_version)),
    )


def _libpython_folder(python_version: str) -> list[Path]:
    """The folder of the libpython that the stub is linked to; empty if the system finds it by itself."""
    library_name = f"libpython{python_version}.so.1.0"
    folder = Path(sysconfig.get_config_var("LIBDIR"))
    if (folder / library_name).exists():
        return [folder]
    if ctypes.util.find_library(f"python{python_version}") is None:
        raise ServerError(f"{library_name} is missing: install Debian's package libpython{python_version}")
    return []


def _environment(installation: Installation, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of tritonserver and, inherited from it, of the stubs that run the models."""
    environment = dict(base)
    # An embedded interpreter looks for `python3` on PATH to find its packages: ours must come first.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)])
    environment.pop("PYTHONHOME", None)
    library_paths = [str(path) for path in installation.library_paths]
    if "LD_LIBRARY_PATH" in base:
        library_paths.append(base["LD_LIBRARY_PATH"])
    if library_paths:
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(library_paths)
    return environment


def _check_ports_are_free(host: str, ports: Mapping[str, int]) -> None:
    """Raise ServerError if one of `ports` (by the variable that sets it) cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as bound:
        for variable, port in ports.items():
            probe = bound.enter_context(socket.socket(family, socket.SOCK_STREAM))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise ServerError(
                    f"port {port} on {host} cannot be used ({error.strerror}): choose another with {variable}=..."
                ) from error


def _check_voices_dir() -> None:
    """Raise ServerError if the folder of the stored voices is there but cannot be read; without one there are none."""
    directory = Path(os.environ.get(VOICES_DIR_VARIABLE) or ".")
    if directory.exists() and not (directory.is_dir() and os.access(directory, os.R_OK | os.X_OK)):
        raise ServerError(f"{VOICES_DIR_VARIABLE}: {directory} is not a folder that can be read")


def _children(parent_pid: int) -> dict[int, str]:
    """The states of a process's children, in the letters of proc(5), by process id."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it is gone
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
            if int(parent) == parent_pid:
                children[int(stat.parent.name)] = state
    return children


def _model_of(pid: int) -> str:
    """The model that a stub runs: the folder above its version's, where model.py lies."""
    with contextlib.suppress(OSError, IndexError):
        model_file = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1]
        return Path(os.fsdecode(model_file)).parent.parent.name
    return f"of process {pid}"


def _is_ready(host: str, http_port: int) -> bool:
    connection = http.client.HTTPConnection(host, http_port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _connectable(host: str) -> str:
    """The address to reach a server at that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _remove_shared_memory(name_prefix: str) -> None:
    for region in SHARED_MEMORY_DIR.glob(f"{name_prefix}*"):
        region.unlink(missing_ok=True)


def _remove_leftovers() -> None:
    """Remove what the servers of killed processes left behind, which those can no longer do."""
    for leftover in [*SHARED_MEMORY_DIR.glob("tritone-*"), *Path(tempfile.gettempdir()).glob("tritone-*")]:
        if (owner := re.match(r"tritone-(\d+)-", leftover.name)) and not Path("/proc", owner[1]).exists():
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tritone.serve",
        description="Serve a Triton model repository until Ctrl-C or SIGTERM.",
        epilog="environment: TLS_CERT, TLS_KEY, TLS_CLIENT_CA (PEM files), ADMIN_KEY, EXIT_TIMEOUT_S, VOICES_DIR, "
        "OTLP_URL",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model-repository", type=Path, required=True, help="the folder of the models")
    parser.add_argument("--host", default=DEFAULT_HOST, help="the address to listen on")
    parser.add_argument("--http-port", type=int, default=DEFAULT_HTTP_PORT, help="the port of HTTP")
    parser.add_argument("--grpc-port", type=int, default=DEFAULT_GRPC_PORT, help="the port of gRPC")
    parser.add_argument("--metrics-port", type=int, default=DEFAULT_METRICS_PORT, help="the port of the metrics")
    parser.add_argument("triton_args", nargs="*", help="after `--`: further arguments for tritonserver")
    options = parser.parse_args(arguments)

    signal.signal(signal.SIGTERM, _raise_keyboard_interrupt)
    try:
        server = TritonServer(
            options.model_repository,
            host=options.host,
            http_port=options.http_port,
            grpc_port=options.grpc_port,
            metrics_port=options.metrics_port,
            access=Access.from_environment(os.environ),
            exit_timeout_s=_exit_timeout_s(os.environ),
            extra_args=options.triton_args,
        )
        with server:
            print(f"ready: {_endpoints(server)}. Ctrl-C stops it.", flush=True)
            finding = server.wait()
    except KeyboardInterrupt:
        return 0
    except (AccessError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"error: {finding}", file=sys.stderr)
    return 1


def _exit_timeout_s(environment: Mapping[str, str]) -> float:
    text = environment.get("EXIT_TIMEOUT_S") or str(EXIT_TIMEOUT_S)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ServerError(f"EXIT_TIMEOUT_S must be a number of seconds, got {text!r}")
    return seconds


def _endpoints(server: TritonServer) -> str:
    if not server.access.has_tls:
        return f"gRPC {server.grpc_url}, HTTP {server.http_url}"
    clients = "TLS" if server.access.tls_client_ca is None else "TLS with client certificates"
    return f"gRPC {server.grpc_url} ({clients}), HTTP {server.http_url} (health alone: Triton's HTTP has no TLS)"


def _raise_keyboard_interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
