"""The README's examples run as they stand, against a real server."""

import re
import shlex
from pathlib import Path

import pytest
import soundfile
from tritone_client.cli import main as tritone

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


def test_python_of_the_readme_speaks(
    server: TritonServer, working_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = blocks("python")
    exec(example.replace("localhost:8001", server.grpc_url), {})
    assert soundfile.info(working_dir / "hello.wav").duration > 0.3
    assert "(" in capsys.readouterr().out  # the shape of at least one piece
