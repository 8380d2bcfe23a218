"""What the models run their graphs with: one interface, whichever library does the work behind it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

Row = TypeVar("Row")
Result = TypeVar("Result")

Precision = Literal["f32", "bf16"]  # of an engine whose arithmetic is chosen when it is opened
# np.ndarray on a CPU, torch.Tensor on a GPU: both know shapes, slices and assignment to slices.
Array = Any


class Device(Protocol):
    """Where an engine's arrays are."""

    def work(self) -> AbstractContextManager[Any]:
        """Everything on the device that is asked for inside runs in this order, and alone where that is needed."""

    def zeros(self, *shape: int) -> Array:
        """A float32 array of zeros."""

    def to_host(self, array: Array) -> np.ndarray:
        """An array as NumPy's, once it is computed."""


class Engine(Protocol):
    """A graph that is ready to run. Any thread may call `run`; calls wait for each other.

    Attributes:
        max_batch: how many rows one call takes at most; None: any number.
        max_length: how long a row may be at most; None: any length.
    """

    @property
    def device(self) -> Device: ...

    @property
    def max_batch(self) -> int | None: ...

    @property
    def max_length(self) -> int | None: ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph: arrays by input name, NumPy's or the device's -> the device's arrays by output name.

        The results are the caller's own. An array of another type than the graph's is an error.
        """


class Host:
    """The memory that NumPy's arrays are in."""

    def work(self) -> AbstractContextManager[None]:
        """As `Device.work`: NumPy's work is done when it was asked for."""
        return nullcontext()

    def zeros(self, *shape: int) -> np.ndarray:
        """As `Device.zeros`."""
        return np.zeros(shape, np.float32)

    def to_host(self, array: np.ndarray) -> np.ndarray:
        """As `Device.to_host`."""
        return array


def open_engine(engine_dir: Path, graph: str, parameters: Mapping[str, str]) -> Engine:
    """The engine of one graph, as `engine` among the parameters of the model's config.pbtxt says.

    Raises:
        FileNotFoundError: it was not built.
        tritone.tensorrt_engine.TensorRtError: its plan does not fit this machine.
    """
    if uses_tensorrt(parameters):
        from tritone.tensorrt_engine import TensorRtEngine

        return TensorRtEngine(engine_dir / f"{graph}.plan")
    from tritone.openvino_engine import OpenVinoEngine, served_precision

    return OpenVinoEngine(engine_dir / f"{graph}.xml", served_precision(parameters), int(parameters["num_threads"]))


def uses_tensorrt(parameters: Mapping[str, str]) -> bool:
    """Whether `engine` is tensorrt, not openvino.

    Raises:
        ValueError: it is neither.
    """
    name = parameters.get("engine", "openvino")
    if name not in ("openvino", "tensorrt"):
        raise ValueError(f"the parameter engine must be openvino or tensorrt, got {name}")
    return name == "tensorrt"


def run_together(
    rows: Sequence[Row],
    shape_of: Callable[[Row], int],
    run: Callable[[list[Row]], Iterable[Result]],
    max_batch: int | None,
) -> list[Result]:
    """What `run` gives for each row, with rows of one shape run together, at most `max_batch` of them."""
    results: dict[int, Result] = {}
    order = sorted(range(len(rows)), key=lambda index: shape_of(rows[index]))
    for _, group in groupby(order, key=lambda index: shape_of(rows[index])):
        same = list(group)
        size = max_batch or len(same)
        for start in range(0, len(same), size):
            batch = same[start : start + size]
            results |= zip(batch, run([rows[index] for index in batch]), strict=True)
    return [results[index] for index in range(len(rows))]
