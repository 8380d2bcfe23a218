"""Finished artifacts: each is a folder that appears whole or not at all, with a manifest of what it was made from."""

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

    Args:
        directory: the artifact; what stood there before is replaced.
        made_from: what decides the content (checkpoint, settings, versions), in JSON's types.
        build: fills the empty folder it is given, and returns what the manifest should tell besides.

    Returns:
        Whether it had to be built.
    """
    manifest_path = directory / MANIFEST_NAME
    if manifest_path.exists() and json.loads(manifest_path.read_text())["made_from"] == made_from:
        return False
    working = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    told = build(working)
    (working / MANIFEST_NAME).write_text(json.dumps({"made_from": made_from, **told}, indent=2))
    shutil.rmtree(directory, ignore_errors=True)
    working.rename(directory)
    return True


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
