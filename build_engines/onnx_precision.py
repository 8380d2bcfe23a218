"""Mixed precision written into an ONNX graph, so that a strongly typed TensorRT network computes what the graph says.

The rule: what multiplies matrices (convolutions and linear layers, which is where the arithmetic is) takes and gives 16
bits, summed up in float32 by the hardware. Everything between is float32: Snake, normalisations, softmax, residual
sums; and so are the inputs and outputs of the graph.
"""

from typing import Literal

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

HalfType = Literal["bf16", "fp16"]
MATRIX_OPERATORS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_ONNX_TYPES = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16}
_NUMPY_TYPES = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16}
_FIRST_OPSET_OF_BF16_CONVOLUTIONS = 22


def with_half_matrices(model: onnx.ModelProto, half: HalfType) -> onnx.ModelProto:
    """A float32 graph with its matrix operators, and their weights, in `half`; the graph given stays as it is."""
    result = version_converter.convert_version(model, _FIRST_OPSET_OF_BF16_CONVOLUTIONS)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    halves: dict[str, str] = {}  # the 16-bit twin of a float32 value, by name

    def halved(name: str) -> str:
        if name not in halves:
            halves[name] = f"{name}.{half}"
            if name in weights:
                values = numpy_helper.to_array(weights[name]).astype(_NUMPY_TYPES[half])
                graph.initializer.append(numpy_helper.from_array(values, halves[name]))
            else:
                nodes.append(_cast(name, halves[name], _ONNX_TYPES[half]))
        return halves[name]

    for node in graph.node:
        if node.op_type in MATRIX_OPERATORS:
            (output,) = node.output
            node.input[:] = [halved(name) for name in node.input]
            halves[output] = f"{output}.{half}"
            node.output[:] = [halves[output]]
            nodes += [node, _cast(halves[output], output, TensorProto.FLOAT)]
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    nodes = [node for node in nodes if used.intersection(node.output) or _gives_result(node, graph)]
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    return result


def _cast(source: str, target: str, onnx_type: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast to {target}", to=onnx_type)


def _gives_result(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    return not {output.name for output in graph.output}.isdisjoint(node.output)
