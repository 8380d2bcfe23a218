"""Processes take turns: real ones, that tell what happens to them through one pipe and go on when they are told."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tritone.turns import TURNS_DIR_VARIABLE, NoTurns, SharedTurns, turns_of_server

pytestmark = pytest.mark.timeout(60)  # what waits for a turn that never comes waits for ever

# Each line on stdin ends the turn, if there is one, and asks for the next at once; the end of stdin ends it for good.
_PROCESS = """
import sys
from pathlib import Path
from tritone.turns import SharedTurns

name, turns = sys.argv[1], SharedTurns(Path(sys.argv[2]))
line = sys.stdin.readline()
while line:
    with turns.turn():
        print(name, "begins", flush=True)
        line = sys.stdin.readline()
        print(name, "ends", flush=True)
"""


class Processes:
    """Processes that share the turns of one folder, and their events in the order in which they happened."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._events, self._write_end = os.pipe()
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, name: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROCESS, name, str(self._directory)],
            stdin=subprocess.PIPE,
            stdout=self._write_end,
            text=True,
        )
        self._processes.append(process)
        return process

    def events(self, num_events: int) -> list[str]:
        """The next events, as soon as there are so many."""
        lines = []
        for _ in range(num_events):
            line = b""
            while not line.endswith(b"\n"):
                line += os.read(self._events, 1)
            lines.append(line.decode().strip())
        return lines

    def nothing_happened(self) -> bool:
        """Whether all events have been read."""
        return select.select([self._events], [], [], 0) == ([], [], [])

    def close(self) -> None:
        """End what is left."""
        for process in self._processes:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
        os.close(self._events)
        os.close(self._write_end)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with closing(Processes(tmp_path)) as processes:
        yield processes


def go_on(process: subprocess.Popen[str]) -> None:
    """End the process's turn, if it has one, and have it ask for the next."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def finish(process: subprocess.Popen[str]) -> None:
    """End the process's turn, and then the process itself."""
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait() == 0


def wait_until_blocked(process: subprocess.Popen[str]) -> None:
    """Return when the process waits for a lock that somebody else has."""
    while not any(
        fields[1] == "->" and int(fields[5]) == process.pid
        for fields in map(str.split, Path("/proc/locks").read_text().splitlines())
    ):
        assert process.poll() is None, "the process ended"
        time.sleep(0.001)


def test_a_turn_begins_when_the_other_process_ends_its_own(processes: Processes) -> None:
    first, second = processes.start("first"), processes.start("second")
    go_on(first)
    assert processes.events(1) == ["first begins"]
    go_on(second)
    wait_until_blocked(second)
    assert processes.nothing_happened()
    finish(first)
    assert processes.events(2) == ["first ends", "second begins"]


def test_who_waits_gets_the_next_turn_though_the_other_asks_again_at_once(processes: Processes) -> None:
    holder, waiter = ((name, processes.start(name)) for name in ("one", "other"))
    go_on(holder[1])
    assert processes.events(1) == ["one begins"]
    go_on(waiter[1])
    for _ in range(10):
        wait_until_blocked(waiter[1])
        go_on(holder[1])
        assert processes.events(2) == [f"{holder[0]} ends", f"{waiter[0]} begins"]
        holder, waiter = waiter, holder


def test_turns_never_overlap(processes: Processes) -> None:
    for process in [processes.start(name) for name in ("first", "second", "third")]:
        for _ in range(50):
            go_on(process)
        assert process.stdin is not None
        process.stdin.close()
    events = processes.events(2 * 3 * 50)
    for begins, ends in zip(events[::2], events[1::2], strict=True):
        assert begins.endswith(" begins") and ends == begins.replace("begins", "ends")


def test_a_killed_process_gives_its_turn_up(processes: Processes) -> None:
    killed, other = processes.start("killed"), processes.start("other")
    go_on(killed)
    assert processes.events(1) == ["killed begins"]
    go_on(other)
    wait_until_blocked(other)
    killed.kill()
    assert processes.events(1) == ["other begins"]


def test_a_killed_waiter_holds_nobody_up(processes: Processes) -> None:
    first, killed, last = (processes.start(name) for name in ("first", "killed", "last"))
    go_on(first)
    assert processes.events(1) == ["first begins"]
    for process in (killed, last):
        go_on(process)
        wait_until_blocked(process)
    killed.kill()
    killed.wait()
    finish(first)
    assert processes.events(2) == ["first ends", "last begins"]


def test_a_turn_ends_with_an_error_too(processes: Processes, tmp_path: Path) -> None:
    with closing(SharedTurns(tmp_path)) as turns, pytest.raises(ZeroDivisionError), turns.turn():
        raise ZeroDivisionError
    go_on(processes.start("next"))
    assert processes.events(1) == ["next begins"]


def test_a_server_names_the_folder_of_its_turns(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TURNS_DIR_VARIABLE, str(tmp_path))
    turns, other = turns_of_server(), processes.start("other")
    assert isinstance(turns, SharedTurns)
    with closing(turns):
        with turns.turn():
            go_on(other)
            wait_until_blocked(other)
            assert processes.nothing_happened()
        assert processes.events(1) == ["other begins"]


@pytest.mark.parametrize("directory", [None, ""])
def test_without_a_server_nobody_waits(directory: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if directory is None:
        monkeypatch.delenv(TURNS_DIR_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(TURNS_DIR_VARIABLE, directory)
    turns = turns_of_server()
    assert isinstance(turns, NoTurns)
    with turns.turn(), turns_of_server().turn(), turns.turn():
        pass
