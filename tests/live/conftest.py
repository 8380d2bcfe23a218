"""A real tritonserver with the demo voice, started once for all live tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from build_engines.repository import build_repository, repository_dir
from tritone.serve import TritonServer


@pytest.fixture(scope="session")
def voices_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server's stored voices; a test may put a voice there."""
    return tmp_path_factory.mktemp("voices")


@pytest.fixture(scope="session")
def server(
    demo_checkpoint: Path,
    voices_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TritonServer]:
    """The running server; its log is shown when it does not start.

    The engines are the same ones that `make demo` uses, in build/: what is there already is not built again.
    """
    repository = build_repository(demo_checkpoint, repository_dir(demo_checkpoint, "int8"), "int8")
    log_path = tmp_path_factory.mktemp("server") / "tritonserver.log"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VOICES_DIR", str(voices_dir))
        with TritonServer.on_free_ports(repository, log_path=log_path) as running:
            yield running


@pytest.fixture(scope="session")
def parity_server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A running server whose engines compute in float32, with the checkpoint of the golden data."""
    directory = tmp_path_factory.mktemp("parity")
    repository = build_repository(tiny_checkpoint, directory / "models", "f32")
    with TritonServer.on_free_ports(repository, log_path=directory / "tritonserver.log") as running:
        yield running
