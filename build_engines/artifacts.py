"""Finished artifacts: each is a folder that appears whole or not at all, with a manifest of what it was made from."""

import fcntl
import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MANIFEST_NAME = "manifest.json"


def build_artifact(directory: Path, made_from: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]) -> bool:
    """Have `build` fill `directory`, unless that was done before from the same things.

    Of several processes that want it at once one builds, and the others wait for it.

    Args:
        directory: the artifact; what stood there before is replaced.
        made_from: what decides the content (checkpoint, settings, versions), in JSON's types.
        build: fills the empty folder it is given, and returns what the manifest should tell besides.

    Returns:
        Whether it had to be built.
    """
    if _is_finished(directory, made_from):
        return False
    working = directory.with_name(f".{directory.name}.partial")
    directory.parent.mkdir(parents=True, exist_ok=True)
    # The kernel frees the lock of a process that was killed. The file stays: whoever waits for it has it open.
    with directory.with_name(f".{directory.name}.build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_finished(directory, made_from):
            return False
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir()
        told = build(working)
        (working / MANIFEST_NAME).write_text(json.dumps({"made_from": made_from, **told}, indent=2))
        shutil.rmtree(directory, ignore_errors=True)
        working.rename(directory)
    return True


def _is_finished(directory: Path, made_from: Mapping[str, Any]) -> bool:
    try:
        made: bool = json.loads((directory / MANIFEST_NAME).read_text())["made_from"] == made_from
    except FileNotFoundError:
        return False
    return made


def versions(*packages: str) -> dict[str, str]:
    """The installed version of each package."""
    return {package: importlib.metadata.version(package) for package in packages}


def source_hash(*paths: Path) -> str:
    """16 hexadecimal digits that change with the content of Python files or of folders of them."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
