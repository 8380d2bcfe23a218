"""Mixed precision in the graph itself: what is in 16 bits, and how far that is from float32."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from build_engines import codec
from build_engines.checkpoint import Checkpoint
from build_engines.codec import signal_to_noise_db
from build_engines.onnx_precision import MATRIX_OPERATORS, HalfType, with_half_matrices

HALF_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.fixture(scope="module")
def waves(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    return onnx.load(codec.export_onnx(checkpoint, "vocoder_waves", tmp_path_factory.mktemp("onnx") / "waves.onnx"))


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """As the graph says, without optimisations that would drop a rounding."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def emulated(model: onnx.ModelProto, half: HalfType) -> onnx.ModelProto:
    """Matrix operators as a GPU computes them: 16-bit operands, sums in float32, the result rounded to 16 bits.

    onnxruntime has no kernels in these types for a CPU.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(model.graph.node):
        node = onnx.NodeProto.FromString(node.SerializeToString())
        if node.op_type in MATRIX_OPERATORS:
            wide = [f"{number}.{place}" for place in range(len(node.input))]
            nodes += [
                helper.make_node("Cast", [name], [widened], to=TensorProto.FLOAT)
                for name, widened in zip(node.input, wide, strict=True)
            ]
            (output,) = node.output
            node.input[:], node.output[:] = wide, [f"{number}.sum"]
            nodes += [node, helper.make_node("Cast", [f"{number}.sum"], [output], to=HALF_TYPES[half])]
        else:
            nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_matrices_are_in_16_bits_and_all_else_in_float32(half: HalfType, waves: onnx.ModelProto) -> None:
    before = waves.SerializeToString()
    mixed = with_half_matrices(waves, half)
    assert waves.SerializeToString() == before
    onnx.checker.check_model(mixed, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(mixed, check_type=True, strict_mode=True)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}
    num_matrices = 0
    for node in inferred.graph.node:
        if node.op_type in MATRIX_OPERATORS:
            num_matrices += 1
            assert {types[name] for name in (*node.input, *node.output)} == {HALF_TYPES[half]}
        elif node.op_type != "Cast":
            assert HALF_TYPES[half] not in {types[name] for name in (*node.input, *node.output)}
    assert num_matrices == sum(node.op_type in MATRIX_OPERATORS for node in waves.graph.node) > 0
    for value in (*mixed.graph.input, *mixed.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT


def test_weights_take_half_the_space(waves: onnx.ModelProto) -> None:
    mixed = with_half_matrices(waves, "fp16")
    exact_bytes, mixed_bytes = (sum(map(onnx.TensorProto.ByteSize, g.graph.initializer)) for g in (waves, mixed))
    assert mixed_bytes < 0.6 * exact_bytes


@pytest.mark.parametrize(("half", "least_db", "most_db"), [("fp16", 52, 75), ("bf16", 33, 52)])
def test_mixed_precision_stays_near_float32(
    half: HalfType, least_db: float, most_db: float, checkpoint: Checkpoint, waves: onnx.ModelProto
) -> None:
    """At most: something was rounded. 58 and 39 dB were measured here, 57 and 39 at the published size."""
    exact, mixed = session(waves), session(emulated(with_half_matrices(waves, half), half))
    for batch_size, length in ((1, 21), (2, 33), (1, 60)):
        inputs = codec._features(checkpoint, batch_size, length, np.random.default_rng(length))
        snr_db = signal_to_noise_db(mixed.run(None, inputs)[0], exact.run(None, inputs)[0])
        assert least_db < snr_db < most_db


def test_two_matrices_in_a_row_are_not_rounded_twice_nor_widened_between() -> None:
    weight = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "weight")
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["h"]), helper.make_node("MatMul", ["h", "weight"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", [values[0]], [values[1]], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    mixed = with_half_matrices(model, "fp16").graph
    assert [node.op_type for node in mixed.node] == ["Cast", "MatMul", "MatMul", "Cast"]
    assert len(mixed.initializer) == 1
