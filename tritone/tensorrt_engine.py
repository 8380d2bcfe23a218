"""Running a TensorRT plan on a GPU: device tensors in and out, one execution context for each optimisation profile.

PyTorch holds the tensors and the stream: it is in the image that has TensorRT, its allocator gives memory back in the
stream's order without waiting, and slices of features become windows without leaving the GPU. CUDA's own Python
bindings have memory and streams, but no such slices. It is imported only here and only when a plan is opened.

A plan runs only with the TensorRT and on the kind of GPU that built it. What those were lies beside it, as JSON, so
that a misfit is told in a sentence before TensorRT sees the plan.
"""

import dataclasses
import importlib
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_log = logging.getLogger(__name__)


class TensorRtError(Exception):
    """A plan cannot be built or run; one sentence that says why and what to do."""


@dataclass(frozen=True)
class Platform:
    """What a plan is bound to."""

    tensorrt: str
    gpu: str
    compute_capability: str

    def __str__(self) -> str:
        return f"TensorRT {self.tensorrt} on {self.gpu} (compute capability {self.compute_capability})"


@dataclass(frozen=True)
class Profile:
    """The shapes that one of a plan's optimisation profiles takes, by input: the least, those tuned for, the most."""

    least: dict[str, Shape]
    tuned: dict[str, Shape]
    most: dict[str, Shape]

    def takes(self, shapes: Shapes) -> bool:
        """Whether inputs of these shapes can run."""
        return shapes.keys() == self.least.keys() and all(
            len(shape) == len(self.least[name])
            and all(
                low <= size <= high for low, size, high in zip(self.least[name], shape, self.most[name], strict=True)
            )
            for name, shape in shapes.items()
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} {_text(self.least[name])} to {_text(self.most[name])}" for name in self.least)


@dataclass(frozen=True)
class PlanFacts:
    """What is known of a plan without opening it; it lies beside the plan.

    Attributes:
        checkpoint: the fingerprint of the checkpoint that it was built from.
        precision: what its matrices are multiplied in.
        profiles: in the plan's order; where several take the same shapes, the first is used.
    """

    platform: Platform
    checkpoint: str
    precision: str
    profiles: tuple[Profile, ...]

    @classmethod
    def load(cls, plan: Path) -> "PlanFacts":
        """Read what lies beside `plan`.

        Raises:
            FileNotFoundError: the plan, or its facts, are missing.
        """
        for path in (plan, plan.with_suffix(".json")):
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing")
        facts = json.loads(plan.with_suffix(".json").read_text())
        profiles = tuple(
            Profile(
                **{bound: {name: tuple(shape) for name, shape in shapes.items()} for bound, shapes in entry.items()}
            )
            for entry in facts.pop("profiles")
        )
        return cls(platform=Platform(**facts.pop("platform")), profiles=profiles, **facts)

    def save(self, plan: Path) -> None:
        """Write the facts beside `plan`."""
        plan.with_suffix(".json").write_text(json.dumps(dataclasses.asdict(self), indent=2))

    def require(self, here: Platform, plan: Path) -> None:
        """Refuse a plan that was not built for where it shall run.

        Raises:
            TensorRtError: says what differs.
        """
        built = self.platform
        if built.tensorrt != here.tensorrt:
            reason = f"was built by TensorRT {built.tensorrt}, and this is {here.tensorrt}"
        elif (built.gpu, built.compute_capability) != (here.gpu, here.compute_capability):
            reason = (
                f"was built for {built.gpu} (compute capability {built.compute_capability}), "
                f"and this is {here.gpu} ({here.compute_capability})"
            )
        else:
            return
        raise TensorRtError(f"{plan} {reason}: build the engines again here")

    def choose(self, shapes: Shapes, plan: Path) -> int:
        """The number of the profile to run inputs of these shapes with.

        Raises:
            TensorRtError: none takes them; says what would be taken.
        """
        for index, profile in enumerate(self.profiles):
            if profile.takes(shapes):
                return index
        given = ", ".join(f"{name} {_text(shape)}" for name, shape in shapes.items())
        taken = "; ".join(str(profile) for profile in self.profiles)
        raise TensorRtError(f"{plan.name} takes no {given}, only {taken}")

    @property
    def max_batch(self) -> int:
        """How many rows every profile of the plan takes."""
        return min(shape[0] for profile in self.profiles for shape in profile.most.values())

    @property
    def max_length(self) -> int:
        """How long a row may be."""
        return max(max(shape[1] for shape in profile.most.values()) for profile in self.profiles)


class CudaDevice:
    """The GPU of this process, and one stream of its own: on the default stream TensorRT waits after every call."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._stream = torch.cuda.Stream()

    @contextmanager
    def work(self) -> Iterator[int]:
        """As `Device.work`: the work goes to the stream, whose handle it gives."""
        with self._torch.cuda.stream(self._stream):
            yield self._stream.cuda_stream

    def zeros(self, *shape: int) -> "torch.Tensor":
        """As `Device.zeros`."""
        return self._torch.zeros(shape, dtype=self._torch.float32, device="cuda")

    def empty(self, shape: Shape, dtype: "torch.dtype") -> "torch.Tensor":
        """An array for results."""
        return self._torch.empty(shape, dtype=dtype, device="cuda")

    def to_device(self, array: "np.ndarray | torch.Tensor") -> "torch.Tensor":
        """An array in the GPU's memory, contiguous: the same one where it is so already."""
        if isinstance(array, np.ndarray):
            array = self._torch.from_numpy(np.ascontiguousarray(array)).to("cuda", non_blocking=True)
        return array.contiguous()

    def to_host(self, array: "torch.Tensor") -> np.ndarray:
        """As `Device.to_host`."""
        with self.work():
            return array.cpu().numpy()


class TensorRtEngine:
    """A plan that is ready to run, as `tritone.engines.Engine`.

    The largest batch is what all profiles take; a profile is found by the shapes of the inputs.
    """

    def __init__(self, plan: Path) -> None:
        """
        Raises:
            FileNotFoundError: the plan was not built.
            TensorRtError: TensorRT or a GPU is missing, or the plan was built by another TensorRT or for another GPU.
        """
        facts = PlanFacts.load(plan)
        facts.require(this_platform(), plan)
        trt = tensorrt()
        self._runtime = trt.Runtime(tensorrt_logger())  # an engine ends with its runtime
        engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise TensorRtError(f"TensorRT cannot read {plan}; its own messages are in the log")
        self.device = cuda_device()
        self.max_batch = facts.max_batch
        self.max_length = facts.max_length
        self._facts = facts
        self._plan = plan
        self._engine = engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._types = {name: _torch_type(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        self._outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        self._contexts = [self._context(index) for index in range(engine.num_optimization_profiles)]
        self._lock = threading.Lock()

    def _context(self, profile: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise TensorRtError(f"there is not enough GPU memory to run {self._plan}")
        with self.device.work() as stream:
            if not context.set_optimization_profile_async(profile, stream):
                raise TensorRtError(f"{self._plan} has no optimisation profile {profile}")
        return context

    def run(self, inputs: "Mapping[str, np.ndarray | torch.Tensor]") -> "dict[str, torch.Tensor]":
        """As `Engine.run`: the results are queued on the device's stream, not waited for.

        Raises:
            TensorRtError: an input's name or shape is none that the plan was built for, or TensorRT failed.
        """
        profile = self._facts.choose({name: tuple(array.shape) for name, array in inputs.items()}, self._plan)
        with self._lock, self.device.work() as stream:
            context = self._contexts[profile]
            # They live until their kernels are queued; PyTorch hands their memory on within this stream only.
            tensors = {name: self.device.to_device(array) for name, array in inputs.items()}
            for name, tensor in tensors.items():
                if tensor.dtype != self._types[name]:
                    raise TensorRtError(f"{self._plan.name}: {name} must be {self._types[name]}, got {tensor.dtype}")
                if not context.set_input_shape(name, tuple(tensor.shape)):
                    raise TensorRtError(f"{self._plan.name} refuses {name} {_text(tuple(tensor.shape))}")
            results = {
                name: self.device.empty(tuple(context.get_tensor_shape(name)), self._types[name])
                for name in self._outputs
            }
            for name, tensor in (tensors | results).items():
                context.set_tensor_address(name, tensor.data_ptr())
            if not context.execute_async_v3(stream):
                raise TensorRtError(f"{self._plan.name} failed; TensorRT's own messages are in the log")
        return results


def tensorrt() -> Any:
    """The package `tensorrt`.

    Raises:
        TensorRtError: it is not installed.
    """
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        raise TensorRtError(f"the package tensorrt is needed, which the GPU image has: {error}") from error


@cache
def this_platform() -> Platform:
    """What plans that are built here are bound to.

    Raises:
        TensorRtError: TensorRT or a GPU is missing.
    """
    version = tensorrt().__version__
    import torch

    if not torch.cuda.is_available():
        raise TensorRtError("there is no NVIDIA GPU here that PyTorch can use (see nvidia-smi)")
    major, minor = torch.cuda.get_device_capability()
    return Platform(tensorrt=version, gpu=torch.cuda.get_device_name(), compute_capability=f"{major}.{minor}")


@cache
def cuda_device() -> CudaDevice:
    """The GPU, one for all engines of the process: what one gives the other takes in the same stream."""
    return CudaDevice()


@cache
def tensorrt_logger() -> Any:
    """TensorRT's warnings and errors, in this program's log."""
    trt = tensorrt()
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
    }

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            _log.log(levels.get(severity, logging.DEBUG), "TensorRT: %s", message)

    return Logger()


def _torch_type(numpy_type: Any) -> "torch.dtype":
    import torch

    return torch.from_numpy(np.empty(0, numpy_type)).dtype


def _text(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"
