"""A stand-in for the package `tensorrt` without a GPU: plans are ONNX files that onnxruntime runs in the host's memory.

It has what the project calls, under TensorRT 10.14's names and with its arguments. What it cannot show is what TensorRT
does with a graph; tests/test_tensorrt_gpu.py does that.
"""

import ctypes
import enum
import json
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import numpy as np
import onnx
import onnxruntime
import torch

__version__ = "10.14.1.48"
STREAM = 7
_SEPARATOR = b"\n--\n"


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(enum.Enum):
    TF32 = enum.auto()


class MemoryPoolType(enum.Enum):
    WORKSPACE = enum.auto()


class TensorIOMode(enum.Enum):
    INPUT = enum.auto()
    OUTPUT = enum.auto()


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = enum.auto()
        ERROR = enum.auto()
        WARNING = enum.auto()


def nptype(dtype: int) -> type:
    return onnx.helper.tensor_dtype_to_np_dtype(dtype).type


class Network:
    def __init__(self, flags: int) -> None:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        self.model = b""


class ParserError:
    def desc(self) -> str:
        return "it is no ONNX graph"


class OnnxParser:
    num_errors = 1

    def __init__(self, network: Network, logger: ILogger) -> None:
        self._network = network

    def parse(self, model: bytes) -> bool:
        self._network.model = model
        return bool(onnx.load_from_string(model).graph.node)

    def get_error(self, index: int) -> ParserError:
        return ParserError()


class OptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        self.shapes[input] = [list(min), list(opt), list(max)]


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"timed "


class BuilderConfig:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.profiles: list[OptimizationProfile] = []
        self._cache: TimingCache | None = None

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.remove(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        assert pool_size > 0

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        return TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        """Refuses what another GPU timed, like the real one."""
        if b"other" in cache.content:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> TimingCache:
        assert self._cache is not None
        return self._cache


class Builder:
    def __init__(self, logger: ILogger) -> None:
        pass

    def create_network(self, flags: int) -> Network:
        return Network(flags)

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> bytes:
        assert not config.flags, "float32 shall be float32"
        return json.dumps([profile.shapes for profile in config.profiles]).encode() + _SEPARATOR + network.model


class ExecutionContext:
    """Like the real one, it reads and writes memory that it is told the address of, in the types of the graph."""

    def __init__(self, engine: "CudaEngine") -> None:
        self._engine = engine
        self._profile: dict[str, list[list[int]]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle == STREAM
        self._profile = self._engine.profiles[profile_index]
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._profile[name]
        self._shapes[name] = shape
        return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._engine.output_shape(name, tuple(sorted(self._shapes.items())))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == STREAM
        inputs = {name: self._memory(name, shape) for name, shape in self._shapes.items()}
        outputs = [value.name for value in self._engine.session.get_outputs()]
        for name, result in zip(outputs, self._engine.session.run(outputs, inputs), strict=True):
            self._memory(name, result.shape)[...] = result
        return True

    def _memory(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        dtype = self._engine.types[name]
        num_bytes = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer((ctypes.c_char * num_bytes).from_address(self._addresses[name]), dtype).reshape(shape)


class CudaEngine:
    def __init__(self, plan: bytes) -> None:
        profiles, model = plan.split(_SEPARATOR, 1)
        self.profiles = json.loads(profiles)
        graph = onnx.load_from_string(model).graph
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options)
        self._modes = {value.name: TensorIOMode.INPUT for value in graph.input}
        self._modes |= {value.name: TensorIOMode.OUTPUT for value in graph.output}
        self._dtypes = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
        self.types = {name: np.dtype(nptype(dtype)) for name, dtype in self._dtypes.items()}
        self.output_shape = cache(self._output_shape)

    @property
    def num_io_tensors(self) -> int:
        return len(self._modes)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self._modes)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self._modes[name]

    def get_tensor_dtype(self, name: str) -> int:
        return self._dtypes[name]

    def _output_shape(self, name: str, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> tuple[int, ...]:
        zeros = {name: np.zeros(shape, self.types[name]) for name, shape in shapes}
        return self.session.run([name], zeros)[0].shape

    def create_execution_context(self) -> ExecutionContext:
        return ExecutionContext(self)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        pass

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> CudaEngine | None:
        return CudaEngine(serialized_engine) if _SEPARATOR in serialized_engine else None


class Device:
    """In the place of `tritone.tensorrt_engine.CudaDevice`: PyTorch's tensors, in the host's memory."""

    def work(self) -> AbstractContextManager[int]:
        return nullcontext(STREAM)

    def zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype)

    def to_device(self, array: np.ndarray | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(array).contiguous()

    def to_host(self, array: torch.Tensor) -> np.ndarray:
        return array.numpy()
