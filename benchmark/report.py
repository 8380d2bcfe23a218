"""How the benchmarks show their figures."""

import dataclasses
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        return "  ".join([first.strip().ljust(widths[0]), *others])

    return "\n".join(map(line, (header, *rows)))


def write_json(path: Path, figures: Any) -> None:
    """Write a dataclass, and those within it, with its fields and what it computes from them (its properties)."""
    path.write_text(json.dumps(figures, default=_fields_and_properties, indent=2))


def processor_name() -> str:
    """What the processor calls itself."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _fields_and_properties(value: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(value)]
    names += [name for name, member in vars(type(value)).items() if isinstance(member, property)]
    return {name: getattr(value, name) for name in names if not name.startswith("_")}
