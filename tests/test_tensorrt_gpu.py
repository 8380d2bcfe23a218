"""Real plans on a real GPU, in the GPU image: `python -m pytest -m gpu tests/test_tensorrt_gpu.py`."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from build_engines import checks, codec
from build_engines.checkpoint import Checkpoint
from build_engines.codec import ModelName
from build_engines.repository import model_facts
from build_engines.tensorrt_plans import build_plans, verify_plans
from tritone.spark_tts.codec import Vocoder
from tritone.tensorrt_engine import PlanFacts, TensorRtEngine, this_platform

HAS_TENSORRT = torch.cuda.is_available() and importlib.util.find_spec("tensorrt") is not None
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_TENSORRT, reason="needs an NVIDIA GPU and the package tensorrt"),
    pytest.mark.timeout(1800),
]
MODELS: tuple[ModelName, ...] = ("speaker_encoder", "semantic_encoder", "vocoder")


@pytest.fixture(scope="module")
def checkpoint(demo_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(demo_checkpoint)


@pytest.fixture(scope="module")
def built(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version folders of the three models with plans of the demo voice, built as the product's are."""
    directory = tmp_path_factory.mktemp("repository")
    for model in MODELS:
        build_plans(checkpoint, model, directory / model / "engine", directory / "timing.cache")
        model_facts(checkpoint).save(directory / model)
    return directory


@pytest.mark.parametrize("model", MODELS)
def test_plans_equal_pytorch_at_and_between_the_sizes_they_were_tuned_for(
    model: ModelName, built: Path, checkpoint: Checkpoint
) -> None:
    results = verify_plans(checkpoint, model, built / model / "engine")
    print("\n".join(map(str, results)))
    checks.require(results)


def test_facts_name_this_machine(built: Path) -> None:
    assert PlanFacts.load(built / "vocoder" / "engine" / "vocoder_waves.plan").platform == this_platform()


def test_results_stay_on_the_gpu_and_are_not_overwritten(built: Path) -> None:
    engine = TensorRtEngine(built / "vocoder" / "engine" / "vocoder_features.plan")
    voice = np.zeros((1, 32), np.int32)
    runs = [
        engine.run({"global_tokens": voice, "semantic_tokens": np.full((1, 40), token, np.int32)})["features"]
        for token in (1, 2, 1)
    ]
    assert all(run.is_cuda for run in runs)
    first, other, again = map(engine.device.to_host, runs)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_rows_that_run_together_sound_as_they_do_alone(built: Path, checkpoint: Checkpoint) -> None:
    vocoder, rng = Vocoder.load(built / "vocoder", {"engine": "tensorrt"}), np.random.default_rng(0)
    rows = []
    for length in (1, 23, 62, 123, 250, 250, 306, 700):
        rows += vocoder.rows(codec._tokens(checkpoint, 1, length, rng))
    for row, waveform in zip(rows, vocoder.run(rows), strict=True):
        (alone,) = vocoder.run([row])
        assert codec.signal_to_noise_db(waveform, alone) > codec.MIN_SNR_DB["fp16"]
