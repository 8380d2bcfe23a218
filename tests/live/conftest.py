"""Real tritonservers, each started once for all live tests."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_engines.profiles import PRECISIONS, ProfileName
from build_engines.repository import build_repository, copy_models, repository_dir
from tritone.serve import TritonServer

SMALL_SERVER_PLACES = 3


@pytest.fixture(scope="session")
def voices_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server's stored voices; a test may put a voice there."""
    return tmp_path_factory.mktemp("voices")


@pytest.fixture(scope="session")
def demo_repository(demo_checkpoint: Path) -> Path:
    """The demo voice's model repository, the one of `make demo` in build/: what is there already is not built again.

    PROFILE=gpu makes it the one for a GPU, for the tests that `make gpu-check` runs.
    """
    profile: ProfileName = "gpu" if os.environ.get("PROFILE") == "gpu" else "cpu"
    precision = PRECISIONS[profile][0]
    return build_repository(demo_checkpoint, repository_dir(demo_checkpoint, precision, profile), precision, profile)


@pytest.fixture(scope="session")
def server(
    demo_repository: Path,
    voices_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TritonServer]:
    """A running server with the demo voice; its log is shown when it does not start."""
    log_path = tmp_path_factory.mktemp("server") / "tritonserver.log"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VOICES_DIR", str(voices_dir))
        with TritonServer.on_free_ports(demo_repository, log_path=log_path) as running:
            yield running


@pytest.fixture(scope="session")
def small_server(
    demo_checkpoint: Path, demo_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """A running server with the demo voice in float32: its tokens do not depend on what else is running.

    Each of its public models serves SMALL_SERVER_PLACES requests at a time.
    """
    directory = tmp_path_factory.mktemp("small")
    repository = directory / "models"
    shutil.copytree(demo_repository, repository)  # only the language model's engine is another one
    build_repository(demo_checkpoint, repository, "f32")
    places = {"max_requests": str(SMALL_SERVER_PLACES)}
    float32 = {"precision": "f32"}
    copy_models(repository, {"spark_tts": places, "spark_tts_stream": places, "speech_lm": float32, "vocoder": float32})
    with TritonServer.on_free_ports(repository, log_path=directory / "tritonserver.log") as running:
        yield running


@pytest.fixture(scope="session")
def parity_server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A running server whose engines compute in float32, with the checkpoint of the golden data."""
    directory = tmp_path_factory.mktemp("parity")
    repository = build_repository(tiny_checkpoint, directory / "models", "f32")
    with TritonServer.on_free_ports(repository, log_path=directory / "tritonserver.log") as running:
        yield running
