"""The commands that make offers, without running what is behind them."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tritone import serve

PROJECT_DIR = Path(__file__).resolve().parent.parent
MAKEFILE = (PROJECT_DIR / "Makefile").read_text()
COMMANDS = re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE)
VARIABLES = (
    "SIZE",
    "MODEL_DIR",
    "PRECISION",
    "PROFILE",
    "HOST",
    "HTTP_PORT",
    "GRPC_PORT",
    "METRICS_PORT",
    "PYTHON",
    "MAKEFLAGS",
)


def make(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        ["make", *arguments], cwd=PROJECT_DIR, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_help_is_what_plain_make_says_and_lists_every_command() -> None:
    listed = re.findall(r"^make (\S+) +\S", make(), flags=re.MULTILINE)

    assert listed == COMMANDS
    assert make("help") == make()


@pytest.mark.parametrize("command", COMMANDS)
def test_command_can_be_planned(command: str) -> None:
    make("--dry-run", "--always-make", command)


def test_server_takes_the_launchers_defaults() -> None:
    plan = make("--dry-run", "serve")

    assert f"--host {serve.DEFAULT_HOST} " in plan
    assert f"--http-port {serve.DEFAULT_HTTP_PORT} " in plan
    assert f"--grpc-port {serve.DEFAULT_GRPC_PORT} " in plan
    assert f"--metrics-port {serve.DEFAULT_METRICS_PORT}" in plan
    assert '--model-dir "checkpoints/demo_voice"  --profile cpu' in plan


def test_variables_choose_checkpoint_precision_and_ports() -> None:
    plan = make("--dry-run", "serve", "MODEL_DIR=a folder/voice", "PRECISION=bf16", "PROFILE=gpu", "GRPC_PORT=9001")

    assert '--model-dir "a folder/voice" --precision bf16 --profile gpu' in plan
    assert "--grpc-port 9001 " in plan


@pytest.mark.parametrize("size", ["tiny", "full"])
def test_size_builds_a_synthetic_checkpoint(size: str) -> None:
    plan = make("--dry-run", "--always-make", "build", f"SIZE={size}")

    assert f"synthetic --size {size} --output-dir checkpoints/synthetic-{size}" in plan
    assert f'repository --model-dir "checkpoints/synthetic-{size}"' in plan


def test_every_locked_version_is_exact() -> None:
    lines = [line for line in (PROJECT_DIR / "requirements.lock").read_text().splitlines() if line[:1] != "#"]

    assert lines
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[a-z0-9.]+", line)] == []
