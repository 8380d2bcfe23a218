"""What a container does, as processes of this machine; tests/live/test_deploy_live.py runs it in the image."""

import http.server
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from build_engines.profiles import PRECISIONS, PROFILES
from tests import container
from tests.waiting import wait_until
from tritone import deploy, serve
from tritone.deploy import DeployError, Settings, is_healthy, made_from, repository_dir, wait_for_engines

STARTED_TIMEOUT_S = 60
ENDED_TIMEOUT_S = 30


class Deploy:
    """`python -m tritone.deploy` as a process of its own."""

    def __init__(self, log_path: Path, *arguments: str, **variables: str | Path) -> None:
        self._log_path = log_path
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tritone.deploy", *arguments],
                env=os.environ | {name: str(value) for name, value in variables.items()},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def exit_code(self) -> int:
        return self.process.wait(STARTED_TIMEOUT_S)


@pytest.fixture
def builder(tmp_path: Path, demo_checkpoint: Path) -> Iterator[Deploy]:
    """A build whose builder is running."""
    started = Deploy(tmp_path / "log", "build", MODEL_DIR=demo_checkpoint, ENGINES_DIR=tmp_path / "engines")
    wait_until(lambda: any("python" in name for name in map(psutil.Process.name, started.children())))
    yield started
    started.process.kill()
    started.process.wait()


def settings(**variables: str | Path) -> Settings:
    return Settings.from_environment({name: str(value) for name, value in variables.items()})


def test_defaults_are_the_servers_and_the_builders() -> None:
    defaults = settings()

    assert defaults.host == serve.DEFAULT_HOST
    ports = (serve.DEFAULT_HTTP_PORT, serve.DEFAULT_GRPC_PORT, serve.DEFAULT_METRICS_PORT)
    assert (defaults.http_port, defaults.grpc_port, defaults.metrics_port) == ports
    assert {profile: settings(PROFILE=profile).precision for profile in PROFILES} == {
        profile: names[0] for profile, names in PRECISIONS.items()
    }


def test_demo_voice_is_served_unless_another_is_named(demo_checkpoint: Path) -> None:
    assert settings().model_dir == settings(MODEL_DIR="demo").model_dir == demo_checkpoint
    assert settings(MODEL_DIR="/model").model_dir == Path("/model")


def test_empty_variable_counts_as_absent() -> None:
    assert settings(PRECISION="", HTTP_PORT="", PROFILE="", MODEL_DIR="", TRITONE_BUILD="") == settings()


@pytest.mark.parametrize(
    ("name", "value"), [("PROFILE", "tpu"), ("TRITONE_BUILD", "no"), ("HTTP_PORT", "http"), ("ENGINES_TIMEOUT_S", "-1")]
)
def test_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(DeployError, match=f"{name} is '{value}'"):
        settings(**{name: value})


def test_key_changes_with_checkpoint_and_precision(demo_checkpoint: Path, tiny_checkpoint: Path) -> None:
    def key(**variables: str | Path) -> str:
        chosen = settings(**variables)
        return repository_dir(chosen, made_from(chosen)).name.rpartition("-")[2]

    assert key(MODEL_DIR=demo_checkpoint) == key()
    assert len({key(), key(PRECISION="bf16"), key(MODEL_DIR=tiny_checkpoint)}) == 3


def test_precision_that_the_profile_lacks_is_named() -> None:
    with pytest.raises(DeployError, match="PRECISION is 'int4', not one of int8, bf16, f32"):
        made_from(settings(PRECISION="int4"))


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_missing_gpu_is_named() -> None:
    with pytest.raises(DeployError, match="PROFILE is gpu, but nvidia-smi finds none"):
        deploy.gpus()


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    failed = Deploy(tmp_path / "log", "serve", MODEL_DIR=tmp_path / "nowhere", ENGINES_DIR=tmp_path / "engines")

    assert failed.exit_code() == 1
    assert failed.log == f"error: MODEL_DIR: {tmp_path}/nowhere/config.yaml is missing\n"


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    failed = Deploy(tmp_path / "log", "build", ENGINES_DIR="/proc/engines")

    assert failed.exit_code() == 1
    assert "error: ENGINES_DIR: /proc/engines cannot be written by user" in failed.log


@pytest.mark.skipif(not container.can_run(), reason="the kernel gives this user no namespaces to mount in")
def test_full_disk_is_named_and_nothing_is_left_on_it(tmp_path: Path) -> None:
    build = f"{sys.executable} -m tritone.deploy build"
    script = f"mount -t tmpfs -o size=1m none /mnt; {build}; code=$?; ls -A /mnt/engines; exit $code"
    failed = subprocess.run(
        [*container.NAMESPACES, "sh", "-c", script],
        env=os.environ | {"ENGINES_DIR": "/mnt/engines"},
        capture_output=True,
        text=True,
    )

    assert failed.returncode == 1
    assert "error: ENGINES_DIR: the disk of /mnt/engines is full" in failed.stderr
    assert ".partial" not in failed.stdout


def test_engines_that_nobody_builds_are_waited_for_in_vain(tmp_path: Path) -> None:
    never = {"ENGINES_DIR": tmp_path, "TRITONE_BUILD": "never", "ENGINES_TIMEOUT_S": "0"}

    with pytest.raises(DeployError, match=r"ENGINES_DIR: .* is not built yet .*gave up after 0 s"):
        wait_for_engines(settings(**never))
    with pytest.raises(DeployError, match="PRECISION is 'int4'"):
        wait_for_engines(settings(**never | {"PRECISION": "int4", "ENGINES_TIMEOUT_S": "3600"}))
    with pytest.raises(DeployError, match=r"MODEL_DIR: .*nowhere/config.yaml is missing; gave up after 0 s"):
        wait_for_engines(settings(**never, MODEL_DIR=tmp_path / "nowhere"))


def test_checkpoint_and_engines_may_come_later(tmp_path: Path, demo_checkpoint: Path) -> None:
    model_dir, engines_dir = tmp_path / "model", tmp_path / "engines"
    waiting = Deploy(
        tmp_path / "log",
        *("serve", "--", "--no-such-option"),  # what it becomes at last ends at once
        **{"MODEL_DIR": model_dir, "ENGINES_DIR": engines_dir, "TRITONE_BUILD": "never"},
    )
    wait_until(lambda: "waiting since 0 s: MODEL_DIR" in waiting.log)
    model_dir.symlink_to(demo_checkpoint)
    chosen = settings(MODEL_DIR=model_dir, ENGINES_DIR=engines_dir)
    repository_dir(chosen, made_from(chosen)).mkdir(parents=True)

    assert waiting.exit_code() == 1
    assert "tritonserver ended" in waiting.log


def test_builder_keeps_others_waiting_and_leaves_nothing_when_it_is_stopped(
    builder: Deploy, tmp_path: Path, demo_checkpoint: Path
) -> None:
    variables = {"MODEL_DIR": demo_checkpoint, "ENGINES_DIR": tmp_path / "engines", "ENGINES_TIMEOUT_S": "0"}
    other = Deploy(tmp_path / "other.log", "build", **variables)
    assert other.exit_code() == 1
    assert "error: another process builds" in other.log
    assert any((tmp_path / "engines").glob(".*.partial"))

    builder.process.send_signal(signal.SIGTERM)

    assert builder.process.wait(ENDED_TIMEOUT_S) == 128 + signal.SIGTERM
    assert not any((tmp_path / "engines").glob(".*.partial"))


def test_builder_ends_with_its_parent(builder: Deploy) -> None:
    children = builder.children()

    builder.process.kill()

    _, alive = psutil.wait_procs(children, ENDED_TIMEOUT_S)
    assert alive == []


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (400, False)])
def test_health_is_what_the_server_answers(status: int, healthy: bool) -> None:
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        everywhere = settings(HOST="0.0.0.0", HTTP_PORT=str(server.server_port))
        assert is_healthy(everywhere, "ready") is healthy
        assert is_healthy(everywhere, "live") is healthy
        server.shutdown()
    assert asked == ["/v2/health/ready", "/v2/health/live"]


def test_health_is_bad_where_nobody_listens(free_ports: Callable[[], dict[str, int]], tmp_path: Path) -> None:
    probe = Deploy(tmp_path / "log", "health", HTTP_PORT=str(free_ports()["http_port"]))

    assert probe.exit_code() == 1
