import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from build_engines.artifacts import build_artifact, source_hash
from build_engines.checks import Check, CheckFailed, require


def writes(text: str, counted: list[str] | None = None) -> Callable[[Path], dict[str, Any]]:
    def build(directory: Path) -> dict[str, Any]:
        (directory / "content").write_text(text)
        if counted is not None:
            counted.append(text)
        return {}

    return build


def test_a_finished_artifact_is_not_built_again(tmp_path: Path) -> None:
    counted: list[str] = []
    for _ in range(2):
        build_artifact(tmp_path / "engine", {"precision": "int8"}, writes("a", counted))
    assert counted == ["a"]


def test_an_artifact_made_from_something_else_is_replaced(tmp_path: Path) -> None:
    build_artifact(tmp_path / "engine", {"precision": "int8"}, writes("a"))
    assert build_artifact(tmp_path / "engine", {"precision": "bf16"}, writes("b"))
    assert (tmp_path / "engine" / "content").read_text() == "b"


def test_what_fails_its_check_is_not_published(tmp_path: Path) -> None:
    def build(directory: Path) -> dict[str, Any]:
        writes("b")(directory)
        require([Check.at_least("vocoder", 12.0, "dB SNR", 25.0), Check.at_most("logits", 0.1, "RMS", 0.2)])
        return {}

    build_artifact(tmp_path / "engine", {"version": 1}, writes("a"))
    with pytest.raises(CheckFailed, match=r"^FAILED: vocoder: 12 dB SNR \(limit 25\)$"):
        build_artifact(tmp_path / "engine", {"version": 2}, build)
    assert (tmp_path / "engine" / "content").read_text() == "a"


def test_a_build_starts_from_an_empty_folder_after_one_that_broke_off(tmp_path: Path) -> None:
    def breaks_off(directory: Path) -> dict[str, Any]:
        (directory / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_artifact(tmp_path / "engine", {}, breaks_off)
    build_artifact(tmp_path / "engine", {}, writes("a"))
    assert sorted(path.name for path in (tmp_path / "engine").iterdir()) == ["content", "manifest.json"]


def test_of_several_that_want_it_at_once_one_builds(tmp_path: Path) -> None:
    counted: list[str] = []
    begun = threading.Event()

    def build(directory: Path) -> dict[str, Any]:
        begun.set()
        time.sleep(0.3)
        return writes("a", counted)(directory)

    def want(build: Callable[[Path], dict[str, Any]]) -> bool:
        return build_artifact(tmp_path / "engine", {}, build)

    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(want, build)
        begun.wait(10)
        others = [threads.submit(want, writes("b", counted)) for _ in range(2)]
        assert [first.result(), *(other.result() for other in others)] == [True, False, False]
    assert counted == ["a"]


def test_a_source_hash_changes_with_any_of_its_files(tmp_path: Path) -> None:
    package, module = tmp_path / "package", tmp_path / "module.py"
    package.mkdir()
    (package / "inner.py").write_text("x = 1")
    module.write_text("y = 1")
    before = source_hash(package, module)
    assert source_hash(package, module) == before
    (package / "inner.py").write_text("x = 2")
    assert source_hash(package, module) != before
