"""The Helm chart rendered as `helm template` does it, and what there is to find in its manifests."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests import helm

CHART_DIR = Path(__file__).resolve().parent.parent / "kubernetes" / "tritone"
VALUES_DIR = CHART_DIR.parent / "values"

Manifest = dict[str, Any]


class _StrictLoader(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, which YAML forbids and PyYAML lets pass."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key is there twice", node.start_mark)
        return mapping


def render(
    values: Mapping[str, Any], *, release: str = "demo", namespace: str = "speech", is_upgrade: bool = False
) -> list[Manifest]:
    """All manifests of a release.

    Raises:
        helm.ValuesRefused: the values do not fit the schema; names them.
    """
    rendered = helm.render(CHART_DIR, values, name=release, namespace=namespace, is_upgrade=is_upgrade)
    return [
        manifest
        for path, text in sorted(rendered.items())
        if path.endswith(".yaml")
        for manifest in yaml.load_all(text, _StrictLoader)
        if manifest is not None
    ]


def of_kind(manifests: Sequence[Manifest], kind: str) -> list[Manifest]:
    """The manifests of one kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def only(manifests: Sequence[Manifest], kind: str) -> Manifest:
    """The one manifest of a kind."""
    (manifest,) = of_kind(manifests, kind)
    return manifest


def pod_templates(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Of the Deployment and the Job."""
    return [manifest["spec"]["template"] for manifest in manifests if manifest["kind"] in ("Deployment", "Job")]


def containers(template: Manifest) -> list[Manifest]:
    """All containers of a pod, those that run first included."""
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def server_container(manifests: Sequence[Manifest]) -> Manifest:
    """The container that serves."""
    (container,) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return container


def environment(container: Manifest) -> dict[str, str]:
    """The variables that are set to a value; those from Secrets are left out."""
    return {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a selector by labels fits; an empty one fits everything."""
    return selector.items() <= labels.items()


def walk(node: object) -> Iterator[tuple[str, Any]]:
    """All pairs of key and value, at any depth."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield key, value
            yield from walk(value)
    elif isinstance(node, list):
        for item in node:
            yield from walk(item)
