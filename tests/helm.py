"""Helm's own library, in a process of its own.

It is written in Go, whose runtime does not get along with the other libraries of the tests' process: beside gRPC and
OpenVINO a crash of the whole process was seen.
"""

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any


class ValuesRefused(Exception):
    """The values do not fit the chart's schema; names them."""


def render(chart_dir: Path, values: Mapping[str, Any], **release: Any) -> dict[str, str]:
    """The text of each template of a chart, or of a packaged one, by its path.

    Raises:
        ValuesRefused: the values do not fit the schema.
    """
    rendered: dict[str, str] = _process().submit(_render, chart_dir, dict(values), release).result()
    return rendered


def metadata(chart_dir: Path) -> dict[str, Any]:
    """What Chart.yaml says."""
    found: dict[str, Any] = _process().submit(_metadata, chart_dir).result()
    return found


def lint(chart_dir: Path, values: Mapping[str, Any], kube_version: str) -> dict[str, Any]:
    """The report of `helm lint --strict`."""
    report: dict[str, Any] = _process().submit(_lint, chart_dir, dict(values), kube_version).result()
    return report


def package(chart_dir: Path, destination: Path) -> Path:
    """Pack a chart into a folder; the archive."""
    archive: Path = _process().submit(_package, chart_dir, destination).result()
    return archive


@cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn"))


def _render(chart_dir: Path, values: dict[str, Any], release: dict[str, Any]) -> dict[str, str]:
    from helm_python import Chart
    from helm_python.errors import HelmValuesError

    try:
        with Chart.load(chart_dir) as chart:
            return dict(chart.render(values, **release))
    except HelmValuesError as error:
        raise ValuesRefused(error.detail) from None


def _metadata(chart_dir: Path) -> dict[str, Any]:
    from helm_python import Chart

    with Chart.load(chart_dir) as chart:
        return dict(chart.metadata)


def _lint(chart_dir: Path, values: dict[str, Any], kube_version: str) -> dict[str, Any]:
    from helm_python import chart

    return dict(chart.lint(chart_dir, values, strict=True, kube_version=kube_version))


def _package(chart_dir: Path, destination: Path) -> Path:
    from helm_python import chart

    return Path(chart.package(chart_dir, destination=destination))
