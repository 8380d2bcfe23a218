"""The README's examples run as they stand, against a real server."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from tritone_client.cli import main as tritone

from benchmark.report import BEGIN_MARK, END_MARK, readme_table
from benchmark.results import Run
from tritone.serve import TritonServer

PROJECT_DIR = Path(__file__).parents[2]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (PROJECT_DIR / "README.md").read_text(), re.DOTALL)


@pytest.fixture
def working_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a clone to the examples, and takes what they write."""
    (tmp_path / "demo").symlink_to(PROJECT_DIR / "demo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_of_the_readme_speak(server: TritonServer, working_dir: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("tritone ")]
    assert len(commands) == 5
    for command in commands:
        assert tritone([*command[1:], "--url", server.grpc_url]) == 0, command
    for wav in ("controlled.wav", "cloned.wav", "streamed.wav", "alice.wav"):
        assert soundfile.info(working_dir / wav).duration > 0.3


def test_benchmark_of_the_readme_measures(server: TritonServer, working_dir: Path) -> None:
    text = "".join(blocks("sh")).replace("\\\n", " ").replace("localhost:8001", server.grpc_url)
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("python -m benchmark ")]
    assert [command[3] for command in commands] == ["run", "compare", "capacity"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_DIR)}
    for command in commands:
        subprocess.run([sys.executable, *command[1:]], env=environment, cwd=working_dir, check=True, timeout=200)
    assert "<svg" in (working_dir / "out/benchmark/report.html").read_text()


def test_the_table_of_the_readme_is_that_of_the_stored_run() -> None:
    stored = Run.load(PROJECT_DIR / "benchmark" / "measured" / "run.json")
    assert f"{BEGIN_MARK}\n{readme_table(stored)}\n{END_MARK}" in (PROJECT_DIR / "README.md").read_text()
    assert stored.settings.fixed_tokens and not any(m.figures.errors for m in stored.measurements if m.is_complete)


def test_python_of_the_readme_speaks(
    server: TritonServer, working_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = blocks("python")
    exec(example.replace("localhost:8001", server.grpc_url), {})
    assert soundfile.info(working_dir / "hello.wav").duration > 0.3
    assert "(" in capsys.readouterr().out  # the shape of at least one piece
