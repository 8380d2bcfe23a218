"""Graphs rewritten for the CPU: what is rewritten, and that every graph still computes the same."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as ops
from torch import nn

from build_engines.cpu_rewrites import rewrite_for_cpu

# rate, kernel size, padding: the published vocoder's stages, and others with which each frame makes `rate` frames
STAGES = [(8, 16, 4), (5, 11, 3), (4, 8, 2), (2, 4, 1), (3, 3, 0), (1, 3, 1), (6, 6, 0), (4, 5, 1)]
CHANNELS = 6


class Function(nn.Module):
    """A network without weights."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def converted(network: nn.Module, example: torch.Tensor, directory: Path) -> ov.Model:
    """The network as a graph for inputs of any batch size and length, on the way that engines are built."""
    path = directory / "network.onnx"
    axes = {0: "batch", example.dim() - 1: "num_frames"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated
        torch.onnx.export(
            network,
            (example,),
            path,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": axes, "y": axes},
            opset_version=17,
            dynamo=False,
        )
    return ov.convert_model(path)


def output(model: ov.Model, x: np.ndarray) -> np.ndarray:
    """What the graph makes of `x`, under the name that it had before it was rewritten."""
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(x)["y"]


def in_torch(network: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(x)).numpy()


def num_nodes(model: ov.Model, kind: str) -> int:
    return sum(node.get_type_name() == kind for node in model.get_ordered_ops())


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def check_squared_sine(x: np.ndarray, directory: Path) -> None:
    """Compare the rewritten graph with double precision: arguments [n]."""
    model = converted(Function(lambda x: torch.sin(x).square()), torch.zeros(2, 1, 5), directory)
    rewrite_for_cpu(model)
    assert num_nodes(model, "Sin") == 0
    error = np.abs(output(model, x.reshape(1, 1, -1))[0, 0] - np.sin(x.astype(np.float64)) ** 2)
    # within one unit in the last place of the argument, and one of the largest result
    assert np.all(error <= (np.abs(x) + 1) * 2**-23)


@pytest.mark.parametrize("largest", [0.001, 2.0, 100.0, 10_000.0])
def test_a_squared_sine_is_right_over_many_periods(largest: float, tmp_path: Path) -> None:
    check_squared_sine(np.linspace(-largest, largest, 100_001, dtype=np.float32), tmp_path)


def test_a_squared_sine_is_right_where_periods_meet(tmp_path: Path) -> None:
    borders = np.arange(-41, 42).astype(np.float32) * np.float32(np.pi / 2)
    steps = np.arange(-50, 51, dtype=np.float32)
    check_squared_sine((borders[:, None] + steps * np.spacing(np.abs(borders))[:, None]).ravel(), tmp_path)


def test_all_squared_sines_of_a_network_are_rewritten(tmp_path: Path) -> None:
    def snake_twice(x: torch.Tensor) -> torch.Tensor:
        for alpha in (0.7, 3.0):
            x = x + torch.sin(alpha * x).square() / alpha
        return x

    model = converted(Function(snake_twice), torch.zeros(2, CHANNELS, 5), tmp_path)
    assert num_nodes(model, "Sin") == 2
    rewrite_for_cpu(model)
    assert num_nodes(model, "Sin") == 0
    x = noise(3, CHANNELS, 50)
    np.testing.assert_allclose(output(model, x), in_torch(Function(snake_twice), x), atol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        torch.sin,
        lambda x: torch.sin(x) * x,
        lambda x: torch.sin(x) * torch.sin(2 * x),
        lambda x: torch.sin(x) + torch.sin(x).square(),
        lambda x: torch.stack([sine := torch.sin(x), sine.square()]),
        lambda x: torch.sin(x) ** 3,
        lambda x: torch.sin(torch.sin(x).square()),
    ],
    ids=["plain", "times another", "two sines", "used elsewhere", "an output too", "cubed", "of a squared one"],
)
def test_other_sines_stay_right(function: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    model = converted(Function(function), torch.zeros(2, CHANNELS, 5), tmp_path)
    rewrite_for_cpu(model)
    assert num_nodes(model, "Sin") > 0
    x = 5 * noise(2, CHANNELS, 50)
    np.testing.assert_allclose(output(model, x), in_torch(Function(function), x), atol=5e-6)


@pytest.mark.parametrize(("rate", "kernel_size", "padding"), STAGES)
def test_a_transposed_convolution_equals_its_convolution(
    rate: int, kernel_size: int, padding: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    output_padding = rate - (kernel_size - 2 * padding)  # makes up for one frame too few; 0 in the published stages
    network = nn.ConvTranspose1d(CHANNELS, 5, kernel_size, rate, padding, output_padding)
    model = converted(network, torch.zeros(2, CHANNELS, 9), tmp_path)
    rewrite_for_cpu(model)
    assert num_nodes(model, "ConvolutionBackpropData") == 0
    for batch_size, num_frames in ((1, 1), (1, 2), (3, 40)):
        x = noise(batch_size, CHANNELS, num_frames)
        expected = in_torch(network, x)
        assert expected.shape[2] == rate * num_frames
        np.testing.assert_allclose(output(model, x), expected, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        nn.ConvTranspose1d(CHANNELS, 5, kernel_size=4, stride=2),
        nn.ConvTranspose1d(CHANNELS, 5, kernel_size=3, stride=4),
        nn.ConvTranspose1d(CHANNELS, 5, kernel_size=4, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose1d(CHANNELS, 5, kernel_size=3, stride=3, padding=1, dilation=2),
        nn.ConvTranspose1d(CHANNELS, 4, kernel_size=4, stride=2, padding=1, groups=2),
    ],
    ids=["longer", "shorter", "with output padding", "dilated", "in groups"],
)
def test_other_transposed_convolutions_stay_as_they_are(network: nn.Module, tmp_path: Path) -> None:
    model = converted(network, torch.zeros(2, CHANNELS, 9), tmp_path)
    kinds = [node.get_type_name() for node in model.get_ordered_ops()]
    rewrite_for_cpu(model)
    assert [node.get_type_name() for node in model.get_ordered_ops()] == kinds
    x = noise(2, CHANNELS, 20)
    np.testing.assert_allclose(output(model, x), in_torch(network, x), atol=1e-5)


def test_a_transposed_convolution_over_two_axes_stays_as_it_is(tmp_path: Path) -> None:
    network = nn.ConvTranspose2d(CHANNELS, 5, kernel_size=4, stride=2, padding=1)
    model = converted(network, torch.zeros(2, CHANNELS, 4, 9), tmp_path)
    rewrite_for_cpu(model)
    assert num_nodes(model, "ConvolutionBackpropData") == 1
    x = noise(1, CHANNELS, 4, 11)
    np.testing.assert_allclose(output(model, x), in_torch(network, x), atol=1e-5)


def upsampling(make: Callable[[ov.Node], ov.Node], dtype: type = np.float32) -> ov.Model:
    """A graph that only `make` adds something to: for what PyTorch cannot say."""
    x = ops.parameter([-1, CHANNELS, -1], dtype, name="x")
    y = make(x)
    y.output(0).set_names({"y"})
    return ov.Model([y], [x])


WEIGHT = noise(CHANNELS, 5, 8)


@pytest.mark.parametrize(("begin", "end"), [(0, 4), (1, 3), (3, 1), (4, 0)])
def test_padding_may_differ_between_begin_and_end(begin: int, end: int) -> None:
    model = upsampling(lambda x: ops.convolution_backprop_data(x, ops.constant(WEIGHT), [4], None, [begin], [end], [1]))
    x = noise(2, CHANNELS, 20)
    expected = output(model, x)
    rewrite_for_cpu(model)
    assert num_nodes(model, "ConvolutionBackpropData") == 0
    np.testing.assert_allclose(output(model, x), expected, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: ops.convolution_backprop_data(
            x, ops.convert(ops.constant(WEIGHT.astype(np.float16)), "f32"), [4], None, [2], [2], [1]
        ),
        lambda x: ops.convolution_backprop_data(x, ops.constant(WEIGHT), [4], ops.constant(np.array([70])), [2], [2]),
        lambda x: ops.convolution_backprop_data(x, ops.constant(WEIGHT), [4], auto_pad="same_upper"),
        lambda x: ops.convolution_backprop_data(x, ops.constant(WEIGHT), [4], None, [2], [3], [1]),
    ],
    ids=["decompressed weight", "length given", "padding worked out", "one frame less"],
)
def test_transposed_convolutions_that_say_otherwise_stay_as_they_are(make: Callable[[ov.Node], ov.Node]) -> None:
    model = upsampling(make)
    x = noise(2, CHANNELS, 20)
    expected = output(model, x)
    rewrite_for_cpu(model)
    assert num_nodes(model, "ConvolutionBackpropData") == 1
    np.testing.assert_array_equal(output(model, x), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: ops.multiply(sine := ops.sin(x), sine),
        lambda x: ops.convolution_backprop_data(x, ops.constant(WEIGHT.astype(np.float16)), [4], None, [2], [2], [1]),
    ],
    ids=["squared sine", "transposed convolution"],
)
def test_graphs_in_other_types_stay_as_they_are(make: Callable[[ov.Node], ov.Node]) -> None:
    model = upsampling(make, np.float16)
    kinds = [node.get_type_name() for node in model.get_ordered_ops()]
    rewrite_for_cpu(model)
    assert [node.get_type_name() for node in model.get_ordered_ops()] == kinds
