"""What OpenVINO's CPU plugin is slow at, written as what it is fast at: equal graphs, up to rounding.

Measured on the published vocoder in bfloat16, 200 tokens, with static shapes: 700 ms as exported, 185 ms rewritten.
"""

import numpy as np
import openvino as ov
from openvino import opset13 as ops

# sin(pi t)^2 = t^2 * polynomial(t^2) for |t| <= 1/2: this degree is exact to float32's rounding (2e-8)
_SINE_DEGREE = 5


def rewrite_for_cpu(model: ov.Model) -> None:
    """Rewrite squared sines and transposed convolutions of `model` in place, those in float32 that it knows how to."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Sin":
            _rewrite_squared_sine(node)
        elif node.get_type_name() == "ConvolutionBackpropData":
            _rewrite_transposed_convolution(node)
    model.validate_nodes_and_infer_types()


def _rewrite_squared_sine(sine: ov.Node) -> None:
    """sin(z)^2 by a polynomial over one period: arithmetic that the plugin joins with its neighbours in one kernel.

    The plugin computes sines one by one, in a layout of their own.
    """
    consumers = {target.get_node() for target in sine.output(0).get_target_inputs()}
    if sine.get_output_element_type(0) != ov.Type.f32 or len(consumers) != 1:
        return
    square = consumers.pop()
    if square.get_type_name() != "Multiply" or any(source.get_node() != sine for source in square.input_values()):
        return
    periods = ops.multiply(sine.input_value(0), _scalar(1 / np.pi))
    t = ops.subtract(periods, ops.round(periods, "half_to_even"))
    t_squared = ops.multiply(t, t)
    first, *rest = _sine_coefficients()[::-1]
    polynomial: ov.Node = _scalar(first)
    for coefficient in rest:
        polynomial = ops.add(ops.multiply(polynomial, t_squared), _scalar(coefficient))
    square.output(0).replace(ops.multiply(polynomial, t_squared).output(0))


def _sine_coefficients() -> np.ndarray:
    """Of sin(pi t)^2 / t^2 as a polynomial in t^2, lowest power first."""
    t = np.cos(np.pi * (np.arange(1000) + 0.5) / 2000) / 2  # Chebyshev points: the error is even over the interval
    fitted = np.polynomial.Chebyshev.fit(t**2, np.sin(np.pi * t) ** 2 / t**2, _SINE_DEGREE, domain=[0, 0.25])
    return fitted.convert(kind=np.polynomial.Polynomial).coef


def _rewrite_transposed_convolution(node: ov.Node) -> None:
    """All `rate` phases of the output by one convolution at the input's rate, then interleaved.

    Output t * rate + phase is the sum over d of input t + d times weight[phase + padding - d * rate]. The plugin has
    matrix kernels for convolutions only.
    """
    if not _makes_rate_times_the_frames(node):
        return
    attributes, weight = node.get_attributes(), node.input_value(1).get_node().get_data()  # [in, out, kernel]
    (rate,), (padding,) = attributes["strides"], attributes["pads_begin"]
    num_in, num_out, kernel_size = weight.shape
    first, last = -((kernel_size - 1 - padding) // rate), (rate - 1 + padding) // rate
    phases = np.zeros((rate, num_out, num_in, last - first + 1), np.float32)
    for phase in range(rate):
        for d in range(first, last + 1):
            if 0 <= (k := phase + padding - d * rate) < kernel_size:
                phases[phase, :, :, d - first] = weight[:, :, k].T
    kernel = ops.constant(phases.reshape(rate * num_out, num_in, -1))
    at_input_rate = ops.convolution(node.input_value(0), kernel, [1], [-first], [last], [1])
    # in the layout that convolutions use, a frame's channels side by side, this moves nothing
    node.output(0).replace(ops.depth_to_space(at_input_rate, "blocks_first", rate).output(0))


def _makes_rate_times_the_frames(node: ov.Node) -> bool:
    """Whether a node is what `_rewrite_transposed_convolution` covers: others have another length, or other weights."""
    attributes, weight = node.get_attributes(), node.input_value(1)
    if weight.get_node().get_type_name() != "Constant" or weight.get_element_type() != ov.Type.f32:
        return False
    has_own_length = node.get_input_size() > 2 or attributes["auto_pad"] != "explicit"
    if has_own_length or attributes["dilations"] != [1]:
        return False
    num_cut = attributes["pads_begin"][0] + attributes["pads_end"][0] - attributes["output_padding"][0]
    return weight.get_shape()[2] - num_cut == attributes["strides"][0]


def _scalar(value: float) -> ov.Node:
    return ops.constant(np.array(value, np.float32))
