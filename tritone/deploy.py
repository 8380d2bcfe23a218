"""What a container does: build the engines of a checkpoint once, and serve them.

`python -m tritone.deploy build`, `serve` and `health`, with environment variables for settings (see `Settings`;
`tritone.serve` and the models read their own). Any number of containers may share ENGINES_DIR: a repository appears
there whole or not at all, under a name that says what it was made from; one process builds it, the others wait.
"""

import argparse
import contextlib
import fcntl
import functools
import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NoReturn, TypeVar, cast

# Only the standard library is imported up here: `health` runs every few seconds for as long as the server does.

PROJECT_DIR = Path(__file__).resolve().parent.parent
DEMO_VOICE = "demo"  # as MODEL_DIR: the checkpoint that comes with the project
DEFAULT_PRECISIONS = {"cpu": "int8", "gpu": "bf16"}

# What can change how engines come out, or whether the server can load them.
ENGINE_PACKAGES = {
    "cpu": ("openvino", "openvino-genai", "torch", "onnx"),
    "gpu": ("tensorrt", "tensorrt_llm", "torch", "onnx"),
}

POLL_INTERVAL_S = 1.0
PROGRESS_INTERVAL_S = 30.0
HEALTH_TIMEOUT_S = 5.0
FULL_DISK_BYTES = 64 * 1024 * 1024  # a build that failed with less than this free most likely failed for want of room

# The kernel ends a builder whose parent was killed; until then the lock that it inherits stays taken.
_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")

T = TypeVar("T")


class DeployError(RuntimeError):
    """The container cannot do its work; one sentence that names the setting to look at."""


class CheckpointMissing(DeployError):
    """MODEL_DIR holds no checkpoint, or not all of one yet."""


class _NotYet(Exception):
    """What is waited for is not there; the message says what is missing."""


@dataclass(frozen=True)
class Settings:
    """The environment variables of the same names, in capital letters.

    Attributes:
        model_dir: the checkpoint; `demo` is the one that comes with the project
        engines_dir: the folder of all built repositories, as a rule a volume
        profile: cpu or gpu
        precision: of the language model; absent: that of the profile
        host, http_port, grpc_port, metrics_port: where the server listens
        may_build: TRITONE_BUILD is `auto`, not `never`: `serve` builds what is missing
        engines_timeout_s: how long to wait for engines that another process builds
    """

    model_dir: Path
    engines_dir: Path
    profile: str
    precision: str
    host: str
    http_port: int
    grpc_port: int
    metrics_port: int
    may_build: bool
    engines_timeout_s: float

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the variables; one that is empty counts as absent, as compose files and charts like to write it.

        Raises:
            DeployError: naming the variable whose value cannot be used.
        """

        def one_of(name: str, *choices: str) -> str:
            value = environment.get(name) or choices[0]
            if value not in choices:
                raise DeployError(f"{name} is {value!r}, not one of {', '.join(choices)}")
            return value

        def number(name: str, default: int) -> int:
            value = environment.get(name) or str(default)
            if not value.isdecimal():
                raise DeployError(f"{name} is {value!r}, not a number")
            return int(value)

        model_dir = environment.get("MODEL_DIR") or DEMO_VOICE
        profile = one_of("PROFILE", "cpu", "gpu")
        return cls(
            model_dir=PROJECT_DIR / "checkpoints" / "demo_voice"
            if model_dir == DEMO_VOICE
            else Path(model_dir).absolute(),
            engines_dir=Path(environment.get("ENGINES_DIR") or PROJECT_DIR / "build" / "engines").absolute(),
            profile=profile,
            precision=environment.get("PRECISION") or DEFAULT_PRECISIONS[profile],
            host=environment.get("HOST") or "127.0.0.1",
            http_port=number("HTTP_PORT", 8000),
            grpc_port=number("GRPC_PORT", 8001),
            metrics_port=number("METRICS_PORT", 8002),
            may_build=one_of("TRITONE_BUILD", "auto", "never") == "auto",
            engines_timeout_s=number("ENGINES_TIMEOUT_S", 3600),
        )


def made_from(settings: Settings) -> dict[str, Any]:
    """What decides how the repository comes out, in JSON's types.

    Raises:
        CheckpointMissing: a file of the checkpoint is missing.
        DeployError: the profile has no such precision, or there is no GPU to build for.
    """
    from build_engines.artifacts import source_hash, versions
    from build_engines.checkpoint import CheckpointError, fingerprint
    from build_engines.profiles import PRECISIONS, ProfileName

    precisions = PRECISIONS[cast(ProfileName, settings.profile)]
    if settings.precision not in precisions:
        raise DeployError(f"PRECISION is {settings.precision!r}, not one of {', '.join(precisions)}")
    try:
        checkpoint = fingerprint(settings.model_dir)
    except (CheckpointError, OSError) as error:
        raise CheckpointMissing(f"MODEL_DIR: {error}") from error
    sources = [PROJECT_DIR / name for name in ("model_repo", "tritone", "build_engines")]
    return {
        "profile": settings.profile,
        "precision": settings.precision,
        "checkpoint": checkpoint,
        "versions": versions(*ENGINE_PACKAGES[settings.profile]),
        "sources": source_hash(*sources, *sorted(PROJECT_DIR.glob("model_repo/**/*.pbtxt"))),
        "gpus": gpus() if settings.profile == "gpu" else [],
    }


def gpus() -> list[str]:
    """Names of the kinds of GPU that this container sees: engines run on the kind that they were built on.

    Raises:
        DeployError: there is none.
    """
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise DeployError(
            "PROFILE is gpu, but nvidia-smi finds none: start the container with a GPU (docker run --gpus all)"
        ) from error
    return sorted(set(answer.stdout.splitlines()))


def repository_dir(settings: Settings, ingredients: Mapping[str, Any]) -> Path:
    """The folder of the model repository that is made from `ingredients`, as `made_from` gives them."""
    digest = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:16]
    return settings.engines_dir / f"{settings.profile}-{settings.precision}-{settings.model_dir.name}-{digest}"


def build(settings: Settings) -> Path:
    """Build the model repository of the checkpoint unless it is there, and return its folder.

    A process that is building the same one is waited for. What a killed one left half done is removed.

    Raises:
        DeployError: the checkpoint or the folder cannot be used, the disk is full, the build failed, or another
            process did not come to an end within `engines_timeout_s`.
    """
    from build_engines.artifacts import build_artifact

    ingredients = made_from(settings)
    repository = repository_dir(settings, ingredients)
    if repository.is_dir():
        _log(f"engines are there: {repository}")
        return repository
    try:
        with _locked(settings, repository) as lock:
            started = time.monotonic()
            run_builder = functools.partial(_run_builder, settings, repository, lock)
            if build_artifact(repository, ingredients, run_builder):
                _log(f"engines built in {time.monotonic() - started:.0f} s: {repository}")
            else:
                _log(f"engines were built by another process: {repository}")
    except OSError as error:
        raise DeployError(
            f"ENGINES_DIR: {settings.engines_dir} cannot be written by user {os.getuid()} ({error.strerror}): "
            "mount a volume there that this user may write to and that has room"
        ) from error
    return repository


def wait_for_engines(settings: Settings) -> Path:
    """The folder of the checkpoint's model repository, once another process has built it; nothing is written.

    The checkpoint may come later, too: whoever builds may still be fetching it.

    Raises:
        DeployError: it was not there within `engines_timeout_s`, or cannot come; says why.
    """

    def find() -> Path:
        try:
            repository = repository_dir(settings, made_from(settings))
        except CheckpointMissing as error:
            raise _NotYet(str(error)) from error
        if not repository.is_dir():
            raise _NotYet(f"ENGINES_DIR: {repository} is not built yet (TRITONE_BUILD is never)")
        return repository

    return _wait_for(find, settings.engines_timeout_s)


def serve(settings: Settings, arguments: Sequence[str] = ()) -> NoReturn:
    """Become `python -m tritone.serve` on the checkpoint's engines, so that signals reach it and it is all there is.

    Args:
        arguments: further ones for `tritone.serve`

    Raises:
        DeployError: there are no engines, see `build` and `wait_for_engines`.
    """
    repository = build(settings) if settings.may_build else wait_for_engines(settings)
    command = [sys.executable, "-m", "tritone.serve", f"--model-repository={repository}", f"--host={settings.host}"]
    command += [f"--http-port={settings.http_port}", f"--grpc-port={settings.grpc_port}"]
    command += [f"--metrics-port={settings.metrics_port}", *arguments]
    sys.stdout.flush()
    os.execv(sys.executable, command)


def is_healthy(settings: Settings, check: str) -> bool:
    """Ask the server of this container; `check` is "live" or, for every model to be loaded, "ready"."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.http_port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", f"/v2/health/{check}")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def _locked(settings: Settings, repository: Path) -> Iterator[BinaryIO]:
    """The right to build `repository`; the kernel takes it back from a process that is gone.

    Raises:
        OSError: the folder cannot be written, or its file system has no locks.
        DeployError: another process kept it for too long.
    """
    settings.engines_dir.mkdir(parents=True, exist_ok=True)
    with (settings.engines_dir / f".{repository.name}.lock").open("ab") as lock:

        def take() -> None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _NotYet(f"another process builds {repository}") from error

        _wait_for(take, settings.engines_timeout_s)
        yield lock


def _run_builder(settings: Settings, repository: Path, lock: BinaryIO, directory: Path) -> dict[str, Any]:
    """Fill the empty folder `directory`, which becomes `repository`, in a process that gives its memory back.

    Raises:
        DeployError: the builder failed; the folder is gone then.
    """
    _log(f"building the engines of {settings.model_dir} ({settings.profile}, {settings.precision})")
    command = [*_DIE_WITH_PARENT, sys.executable, "-m", "build_engines", "repository"]
    command += ["--model-dir", str(settings.model_dir), "--profile", settings.profile]
    command += ["--precision", settings.precision, "--output-dir", str(directory)]
    command += ["--served-from", str(repository)]
    try:
        # What it prints is the folder of this moment.
        builder = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[lock.fileno()], check=False
        )
        if builder.returncode != 0:
            raise DeployError(_why_it_failed(settings, builder.returncode))
    except BaseException:  # a stop, too
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return {}


def _why_it_failed(settings: Settings, exit_code: int) -> str:
    free_bytes = shutil.disk_usage(settings.engines_dir).free
    if free_bytes < FULL_DISK_BYTES:
        return f"ENGINES_DIR: the disk of {settings.engines_dir} is full ({free_bytes // 1024**2} MiB left)"
    if exit_code == -signal.SIGKILL:
        return "the builder was killed, most likely for want of memory"
    return f"the engines of {settings.model_dir} could not be built (exit code {exit_code}): see above"


def _wait_for(attempt: Callable[[], T], timeout_s: float) -> T:
    """Call `attempt` until it does not raise _NotYet, and say now and then what is waited for.

    Raises:
        DeployError: with the last reason, after `timeout_s`.
    """
    started = time.monotonic()
    said_at = -PROGRESS_INTERVAL_S
    while True:
        waited_s = time.monotonic() - started
        try:
            return attempt()
        except _NotYet as reason:
            if waited_s >= timeout_s:
                raise DeployError(f"{reason}; gave up after {timeout_s:g} s (ENGINES_TIMEOUT_S)") from reason
            if waited_s - said_at >= PROGRESS_INTERVAL_S:
                _log(f"waiting since {waited_s:.0f} s: {reason}")
                said_at = waited_s
        time.sleep(POLL_INTERVAL_S)


def _log(message: str) -> None:
    print(f"tritone.deploy: {message}", file=sys.stderr, flush=True)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tritone.deploy", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the engines of MODEL_DIR if they are missing; print their folder")
    server = commands.add_parser("serve", help="the same, then serve them")
    server.add_argument("arguments", nargs=argparse.REMAINDER, help="handed on to python -m tritone.serve")
    health = commands.add_parser("health", help="exit code 0 if the server of this container is ready")
    health.add_argument("--live", action="store_true", help="ask whether it is alive instead")
    options = parser.parse_args(arguments)

    # The first process of a container is not stopped by a signal that it does not handle.
    for stop_signal in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop_signal, _stop)
    try:
        settings = Settings.from_environment(os.environ)
        if options.command == "serve":
            serve(settings, options.arguments)
        if options.command == "build":
            print(build(settings))
            return 0
        return 0 if is_healthy(settings, "live" if options.live else "ready") else 1
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
