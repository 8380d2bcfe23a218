"""What an ONNX graph must be so that TensorRT reads it, checked without TensorRT.

`tensorrt_operators.json` holds the operators and types that TensorRT's ONNX parser takes, and where that is said.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

OPERATORS_FILE = Path(__file__).resolve().parent / "tensorrt_operators.json"
_STANDARD_DOMAINS = {"", "ai.onnx"}
_TYPE_NAMES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}
# Inputs that must be known when the plan is built, by operator: their positions.
_CONSTANT_INPUTS = {"Squeeze": 1, "Unsqueeze": 1, "ReduceL2": 1, "ReduceMean": 1, "ReduceSum": 1}


def tensorrt_problems(model: onnx.ModelProto) -> list[str]:
    """One sentence for each thing in a graph that TensorRT would refuse; none: it can be built.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: it is no valid graph in the first place.
    """
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return list(_problems(inferred))


def axes(model: onnx.ModelProto) -> dict[str, list[str | int]]:
    """The axes of every input and output by its name: a size where it is fixed, the axis's name where it is free."""
    graph = onnx.shape_inference.infer_shapes(model).graph  # the exporter leaves some fixed sizes of outputs open
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


@cache
def supported_operators() -> Mapping[str, Any]:
    """The content of `tensorrt_operators.json`."""
    return json.loads(OPERATORS_FILE.read_text())


def _problems(model: onnx.ModelProto) -> Iterator[str]:
    supported = supported_operators()
    first_opset, last_opset = supported["opsets"]
    for opset in model.opset_import:
        if opset.domain not in _STANDARD_DOMAINS:
            yield f"operators of the domain {opset.domain} are none of ONNX's own"
        elif not first_opset <= opset.version <= last_opset:
            yield f"opset {opset.version} is not one of {first_opset} to {last_opset}"
    types = _types(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {name for node in model.graph.node if node.op_type == "Constant" for name in node.output}
    for node in model.graph.node:
        allowed = supported["operators"].get(node.op_type)
        if allowed is None:
            yield f"{node.name}: there is no operator {node.op_type}"
            continue
        for name in node.input:
            if name and types[name] not in allowed:
                yield f"{node.name}: {node.op_type} takes no {types[name]} ({name})"
        position = _CONSTANT_INPUTS.get(node.op_type, len(node.input))
        if position < len(node.input) and node.input[position] not in constants:
            yield f"{node.name}: input {position} of {node.op_type} must be a constant"
        if node.op_type == "LayerNormalization" and len(node.output) > 1:
            yield f"{node.name}: only the first output of LayerNormalization can be had"


def _types(model: onnx.ModelProto) -> dict[str, str]:
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {
        value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)
    }
    return {name: _TYPE_NAMES.get(dtype, TensorProto.DataType.Name(dtype)) for name, dtype in types.items()}
