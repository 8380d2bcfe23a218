"""What tests of several modules share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from build_engines.synthetic import write_synthetic_checkpoint
from tritone import serve

PROJECT_DIR = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny synthetic checkpoint with seed 0, which the golden data belongs to."""
    return write_synthetic_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", "tiny", seed=0)


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """What the published inference code gives for the tiny checkpoint: see tests/golden/README.md for the keys."""
    with np.load(PROJECT_DIR / "tests" / "golden" / "golden_tiny.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def clone_prompt(golden: dict[str, np.ndarray]) -> list[int]:
    return golden["prompt.clone_with_transcript"].tolist()


@pytest.fixture(scope="module")
def greedy_ids(golden: dict[str, np.ndarray]) -> list[int]:
    """The 40 tokens that follow `clone_prompt` in the published code."""
    return golden["greedy.clone_with_transcript"].tolist()


@pytest.fixture(scope="session")
def demo_checkpoint() -> Path:
    """The small checkpoint of the repository, which speaks."""
    return PROJECT_DIR / "checkpoints" / "demo_voice"


@pytest.fixture(scope="session")
def free_ports() -> Callable[[], dict[str, int]]:
    """Gives three ports that nobody listens on, under the names that TritonServer takes them by."""
    return lambda: dict(zip(("http_port", "grpc_port", "metrics_port"), serve.free_ports(3), strict=True))
