"""Write requirements.txt and constraints.txt for one image: `python requirements.py EXTRA...`.

The requirements are those of pyproject.toml and of the extras named, less what is installed already; the constraints
hold pip to the installed versions and, for all others, to those of requirements.lock. So an image that brings its
own builds of some packages keeps them.
"""

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path


def canonical(name: str) -> str:
    """A distribution's name as all spellings of it have it in common."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required(pyproject: Path, extras: list[str]) -> list[str]:
    """The requirements of a project with some of its extras."""
    project = tomllib.loads(pyproject.read_text())["project"]
    return [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]


def missing(requirements: list[str], installed: dict[str, str]) -> list[str]:
    """The requirements whose package is not installed, each once."""
    names = {line: canonical(re.match(r"[\w.-]+", line).group()) for line in requirements}
    return sorted(line for line, name in names.items() if name not in installed)


def constraints(lock: Path, installed: dict[str, str]) -> list[str]:
    """One exact version for every package that is installed or locked; installed ones win."""
    lines = (line.partition("==") for line in lock.read_text().splitlines() if not line.startswith("#"))
    locked = {canonical(name): version for name, _, version in lines}
    return sorted(f"{name}=={version}" for name, version in (locked | installed).items())


if __name__ == "__main__":
    # Reversed: of two with one name the first on the path is imported.
    found = {canonical(dist.name): dist.version for dist in reversed([*importlib.metadata.distributions()])}
    needed = missing(required(Path("pyproject.toml"), sys.argv[1:]), found)
    Path("requirements.txt").write_text("\n".join(needed) + "\n")
    Path("constraints.txt").write_text("\n".join(constraints(Path("requirements.lock"), found)) + "\n")
