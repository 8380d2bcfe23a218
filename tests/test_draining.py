"""The launcher's and a model's side of a server's end, as two parties of one folder."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tritone.draining import DRAINING_DIR_VARIABLE, Entrance, drained, entrance_of_server
from tritone.errors import Unavailable

WAIT_S = 30


def test_who_is_within_is_waited_for_and_nobody_gets_in_meanwhile(tmp_path: Path) -> None:
    entrance, has_ended = Entrance(tmp_path), threading.Event()

    def wait_for_the_end() -> None:
        with drained(tmp_path, WAIT_S) as all_ended:
            assert all_ended and has_ended.is_set()
            with pytest.raises(Unavailable, match="this server is stopping"), entrance.enter():
                pass

    launcher = threading.Thread(target=wait_for_the_end)
    with entrance.enter():
        launcher.start()
        while not (tmp_path / "draining").exists():
            pass
        with pytest.raises(Unavailable, match="this server is stopping"), entrance.enter():
            pass
        has_ended.set()
    launcher.join(WAIT_S)
    assert not launcher.is_alive()


def test_every_model_is_waited_for(tmp_path: Path) -> None:
    idle, busy = Entrance(tmp_path), Entrance(tmp_path)
    with idle.enter():
        pass
    with busy.enter(), drained(tmp_path, 0.1) as all_ended:
        assert not all_ended


def test_requests_that_overlap_are_all_waited_for(tmp_path: Path) -> None:
    entrance = Entrance(tmp_path)
    first, second = entrance.enter(), entrance.enter()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with drained(tmp_path, 0.1) as all_ended:
        assert not all_ended
    second.__exit__(None, None, None)
    with drained(tmp_path, 0.1) as all_ended:
        assert all_ended


def test_killed_model_is_not_waited_for(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from tritone.draining import Entrance
with Entrance(Path({str(tmp_path)!r})).enter():
    print("within", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as model:
        assert model.stdout is not None and model.stdout.readline() == b"within\n"
        model.kill()
        with drained(tmp_path, WAIT_S) as all_ended:
            assert all_ended


def test_without_a_launcher_everybody_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DRAINING_DIR_VARIABLE, raising=False)
    with entrance_of_server().enter():
        pass
