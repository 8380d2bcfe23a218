"""Plans and what lies beside them: which run here, with which profile, and what is said where they do not."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from build_engines.onnx_checks import axes
from build_engines.tensorrt_plans import SizeRange, _build_plan, plan_profiles
from tests import fake_tensorrt
from tritone import tensorrt_engine
from tritone.engines import open_engine
from tritone.tensorrt_engine import PlanFacts, Platform, Profile, TensorRtEngine, TensorRtError

HERE = Platform(tensorrt="10.14.1.48", gpu="NVIDIA L20", compute_capability="8.9")
WAVES = tuple(
    Profile(
        {"features": (1, size, 4), "mask": (1, size)},
        {"features": (2, size, 4), "mask": (2, size)},
        {"features": (8, size, 4), "mask": (8, size)},
    )
    for size in (32, 64)
)
FACTS = PlanFacts(HERE, checkpoint="0123456789abcdef", precision="fp16", profiles=WAVES)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT's stand-in on a GPU that is not there."""
    for cached in (tensorrt_engine.this_platform, tensorrt_engine.cuda_device, tensorrt_engine.tensorrt_logger):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    monkeypatch.setattr(tensorrt_engine, "CudaDevice", fake_tensorrt.Device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: HERE.gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    yield
    for cached in (tensorrt_engine.this_platform, tensorrt_engine.cuda_device, tensorrt_engine.tensorrt_logger):
        cached.cache_clear()


@pytest.fixture
def plan(fake: None, tmp_path: Path) -> Path:
    """The plan of a graph that adds `shift` [b, 1] to `values` [b, n], for 1 to 4 rows of 1 to 8 and of 10 to 20."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["values", "shift"], ["sum"])],
        "graph",
        [
            helper.make_tensor_value_info("values", TensorProto.FLOAT, ["batch", "length"]),
            helper.make_tensor_value_info("shift", TensorProto.FLOAT, ["batch", 1]),
        ],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["batch", "length"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert axes(model)["sum"] == ["batch", "length"]
    profiles = plan_profiles(model, [SizeRange((1, 1), (2, 4), (4, 8)), SizeRange((1, 10), (1, 10), (4, 20))])
    path = tmp_path / "sum.plan"
    _build_plan(model, profiles, path, tmp_path / "timing.cache", 1 << 20)
    PlanFacts(HERE, "0123456789abcdef", "f32", profiles).save(path)
    return path


def test_facts_are_read_as_they_were_written(tmp_path: Path) -> None:
    plan = tmp_path / "vocoder_waves.plan"
    plan.touch()
    FACTS.save(plan)
    assert PlanFacts.load(plan) == FACTS
    assert (FACTS.max_batch, FACTS.max_length) == (8, 64)


@pytest.mark.parametrize("suffix", [".plan", ".json"])
def test_a_plan_or_facts_that_are_missing_are_named(suffix: str, tmp_path: Path) -> None:
    plan = tmp_path / "vocoder_waves.plan"
    plan.touch()
    FACTS.save(plan)
    plan.with_suffix(suffix).unlink()
    with pytest.raises(FileNotFoundError, match=rf"vocoder_waves\{suffix} is missing"):
        PlanFacts.load(plan)


def test_a_plan_runs_where_it_was_built() -> None:
    FACTS.require(dataclasses.replace(HERE), Path("vocoder_waves.plan"))


@pytest.mark.parametrize(
    ("here", "said"),
    [
        (
            {"tensorrt": "10.11.0.33"},
            "was built by TensorRT 10.14.1.48, and this is 10.11.0.33: build the engines again",
        ),
        ({"gpu": "NVIDIA A10"}, r"was built for NVIDIA L20 \(compute capability 8.9\), and this is NVIDIA A10 \(8.9\)"),
        ({"compute_capability": "9.0"}, r"and this is NVIDIA L20 \(9.0\)"),
    ],
)
def test_a_plan_from_elsewhere_is_refused_with_what_differs(here: dict[str, str], said: str) -> None:
    with pytest.raises(TensorRtError, match=rf"^a/vocoder_waves.plan .*{said}"):
        FACTS.require(dataclasses.replace(HERE, **here), Path("a/vocoder_waves.plan"))


def test_the_first_profile_that_takes_the_shapes_is_used() -> None:
    for index, size in enumerate((32, 64)):
        for rows in (1, 3, 8):
            shapes = {"features": (rows, size, 4), "mask": (rows, size)}
            assert FACTS.choose(shapes, Path("vocoder_waves.plan")) == index


@pytest.mark.parametrize(
    "shapes",
    [
        {"features": (9, 32, 4), "mask": (9, 32)},
        {"features": (1, 48, 4), "mask": (1, 48)},
        {"features": (1, 32, 4), "mask": (1, 64)},
        {"features": (1, 32), "mask": (1, 32)},
        {"features": (1, 32, 4)},
        {"features": (1, 32, 4), "masks": (1, 32)},
    ],
)
def test_shapes_that_no_profile_takes_are_refused(shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(
        TensorRtError, match=r"takes no features \[.*, only features \[1, 32, 4\] to \[8, 32, 4\], mask"
    ):
        FACTS.choose(shapes, Path("vocoder_waves.plan"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(TensorRtError, match="the package tensorrt is needed, which the GPU image has"):
        tensorrt_engine.tensorrt()


def test_a_missing_gpu_is_named(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TensorRtError, match="there is no NVIDIA GPU here"):
        tensorrt_engine.this_platform()


@pytest.mark.parametrize("shape", [(1, 1), (4, 8), (3, 5), (4, 20), (1, 10)])
def test_a_plan_runs_at_every_shape_of_its_profiles(shape: tuple[int, int], plan: Path) -> None:
    engine = TensorRtEngine(plan)
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    shift = np.arange(shape[0], dtype=np.float32)[:, None]
    result = engine.run({"values": values, "shift": shift})["sum"]
    assert isinstance(result, torch.Tensor)
    np.testing.assert_array_equal(engine.device.to_host(result), values + shift)


def test_one_engines_result_is_another_ones_input(plan: Path) -> None:
    engine = open_engine(plan.parent, "sum", {"engine": "tensorrt"})
    ones = np.ones((2, 1), np.float32)
    first = engine.run({"values": np.zeros((2, 3), np.float32), "shift": ones})["sum"]
    second = engine.run({"values": first, "shift": ones})["sum"]
    np.testing.assert_array_equal(engine.device.to_host(first), np.ones((2, 3)))
    np.testing.assert_array_equal(engine.device.to_host(second), np.full((2, 3), 2))


def test_a_slice_of_a_device_array_is_read_right(plan: Path) -> None:
    values = torch.arange(24, dtype=torch.float32).reshape(4, 6)[::2, ::3]
    result = TensorRtEngine(plan).run({"values": values, "shift": np.zeros((2, 1), np.float32)})["sum"]
    np.testing.assert_array_equal(result.numpy(), values.numpy())


def test_another_type_than_the_graphs_is_refused(plan: Path) -> None:
    with pytest.raises(TensorRtError, match=r"sum.plan: values must be torch.float32, got torch.float64"):
        TensorRtEngine(plan).run({"values": np.zeros((1, 1)), "shift": np.zeros((1, 1), np.float32)})


def test_a_damaged_plan_is_named(plan: Path) -> None:
    plan.write_bytes(b"no plan")
    with pytest.raises(TensorRtError, match=r"TensorRT cannot read .*sum.plan"):
        TensorRtEngine(plan)


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the parameter engine must be openvino or tensorrt, got cuda"):
        open_engine(tmp_path, "vocoder_waves", {"engine": "cuda"})
