"""What TensorRT takes, as far as that can be told without it: operators, types and axes of the codec's graphs."""

from pathlib import Path
from typing import get_args

import onnx
import pytest
from onnx import TensorProto, helper

from build_engines import codec
from build_engines.checkpoint import Checkpoint
from build_engines.codec import GraphName
from build_engines.onnx_checks import axes, supported_operators, tensorrt_problems
from build_engines.onnx_precision import with_half_matrices

GRAPHS = get_args(GraphName)
AXES = {
    "speaker_encoder": {"reference_clip": ["batch", 96000], "global_tokens": ["batch", 32]},
    "semantic_encoder": {"wav": ["batch", "num_samples"], "semantic_tokens": ["batch", "num_tokens"]},
    "vocoder_features": {
        "global_tokens": ["batch", 32],
        "semantic_tokens": ["batch", "num_tokens"],
        "features": ["batch", "num_tokens", 32],
    },
    "vocoder_waves": {
        "features": ["batch", "num_frames", 32],
        "mask": ["batch", "num_frames"],
        "waveform": ["batch", "num_samples"],
    },
}


@pytest.fixture(scope="module")
def graphs(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[GraphName, onnx.ModelProto]:
    checkpoint, directory = Checkpoint.open(tiny_checkpoint), tmp_path_factory.mktemp("onnx")
    return {graph: onnx.load(codec.export_onnx(checkpoint, graph, directory / f"{graph}.onnx")) for graph in GRAPHS}


def model_of(
    *nodes: onnx.NodeProto, dtype: int = TensorProto.FLOAT, opset: int = 17, shape: tuple[str | int, ...] = ("n", 3)
) -> onnx.ModelProto:
    """A graph from `x` [n, 3] to `y`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", dtype, ["n", 3])],
        [helper.make_tensor_value_info("y", dtype, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("graph", GRAPHS)
def test_tensorrt_takes_every_graph_of_the_codec(graph: GraphName, graphs: dict[GraphName, onnx.ModelProto]) -> None:
    assert tensorrt_problems(graphs[graph]) == []


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_tensorrt_takes_mixed_precision(half: str, graphs: dict[GraphName, onnx.ModelProto]) -> None:
    for graph in ("vocoder_features", "vocoder_waves"):
        assert tensorrt_problems(with_half_matrices(graphs[graph], half)) == []


@pytest.mark.parametrize("graph", GRAPHS)
def test_axes_are_free_where_they_are_meant_to_be_and_fixed_elsewhere(
    graph: GraphName, graphs: dict[GraphName, onnx.ModelProto]
) -> None:
    assert axes(graphs[graph]) == AXES[graph]


def test_an_operator_that_tensorrt_does_not_know_is_named() -> None:
    model = model_of(helper.make_node("Bernoulli", ["x"], ["y"], name="coins"))
    assert tensorrt_problems(model) == ["coins: there is no operator Bernoulli"]


def test_a_type_that_an_operator_does_not_take_is_named() -> None:
    sine = helper.make_node("Sin", ["x"], ["y"], name="sine")
    assert tensorrt_problems(model_of(sine)) == []
    assert tensorrt_problems(model_of(sine, dtype=TensorProto.DOUBLE)) == ["sine: Sin takes no DOUBLE (x)"]


def test_axes_that_are_computed_are_refused() -> None:
    shape = helper.make_node("Shape", ["x"], ["size"], end=1)
    unsqueeze = helper.make_node("Unsqueeze", ["x", "size"], ["y"], name="unsqueeze")
    model = model_of(shape, unsqueeze, shape=("a", "b", "c"))
    assert tensorrt_problems(model) == ["unsqueeze: input 1 of Unsqueeze must be a constant"]


def test_an_opset_that_is_too_old_is_refused() -> None:
    assert tensorrt_problems(model_of(helper.make_node("Sin", ["x"], ["y"]), opset=8)) == [
        "opset 8 is not one of 9 to 24"
    ]


def test_what_is_no_valid_graph_is_refused() -> None:
    with pytest.raises(onnx.checker.ValidationError):
        tensorrt_problems(model_of(helper.make_node("Sin", ["nothing"], ["y"])))


def test_the_list_of_operators_says_where_it_is_from_and_names_real_ones() -> None:
    supported = supported_operators()
    assert "onnx-tensorrt" in supported["source"] and len(supported["operators"]) > 100
    assert all(onnx.defs.has(operator) for operator in supported["operators"])
    assert {name for types in supported["operators"].values() for name in types} == {
        *("FP32", "FP16", "BF16", "INT32", "INT64", "BOOL", "UINT8")
    }
