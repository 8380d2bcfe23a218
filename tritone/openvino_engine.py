"""Running an OpenVINO graph on the CPU, NumPy in and NumPy out."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import openvino as ov

from tritone.engines import Host, Precision

_BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}


class OpenVinoEngine:
    """A compiled graph. Any thread may call `run`; calls wait for each other.

    One call at a time already uses every core it was given, and one set of buffers bounds the memory.
    """

    device = Host()
    max_batch = None
    max_length = None

    def __init__(self, xml_path: Path, precision: Precision = "f32", num_threads: int = 0) -> None:
        """Read and compile an IR (`xml_path`, its .bin beside it).

        Args:
            precision: what the arithmetic is done in; inputs and outputs keep the graph's types.
            num_threads: cores to use; 0: all.

        Raises:
            FileNotFoundError: there is no such file.
        """
        self._compile(_read(xml_path), precision, num_threads)

    @classmethod
    def of_shapes(
        cls, xml_path: Path, precision: Precision, num_threads: int, shapes: Iterable[Mapping[str, Sequence[int]]]
    ) -> "list[OpenVinoEngine]":
        """As the constructor, one engine for each of `shapes`; they share the file's memory.

        A shape gives an input's first dimensions, by its name; the others stay as they are in the file.
        With fixed shapes OpenVINO joins chains of arithmetic to single kernels, which it does not do otherwise.
        """
        model = _read(xml_path)
        engines = []
        for shape_of_input in shapes:
            old_shapes = {name: list(model.input(name).get_partial_shape()) for name in shape_of_input}
            model.reshape({name: [*shape, *old_shapes[name][len(shape) :]] for name, shape in shape_of_input.items()})
            engine = cls.__new__(cls)
            engine._compile(model, precision, num_threads)
            engines.append(engine)
        return engines

    def _compile(self, model: ov.Model, precision: Precision, num_threads: int) -> None:
        properties: dict[str, str | int] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": num_threads,
        }
        if precision == "f32":
            # OpenVINO 2026.4.1 keeps a kernel that it chose for an input of one frame and goes on to use it for longer
            # ones, where its results are wrong from then on (seen in the semantic encoder; not in bf16). Choosing
            # kernels anew costs about 20 ms a call, little beside what float32 engines take.
            properties["CPU_RUNTIME_CACHE_CAPACITY"] = 0
        self._model = ov.Core().compile_model(model, "CPU", properties)
        self._request = self._model.create_infer_request()
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph: arrays by input name -> arrays by output name, the caller's own.

        An output that the exporter gave several names is there under each.

        Raises:
            RuntimeError: an input's name, type or shape is not the graph's.
        """
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        with self._lock:
            results = self._request.infer(arrays, share_inputs=True)
        return {name: array for output, array in results.items() for name in output.names}


def served_precision(parameters: Mapping[str, str]) -> Precision:
    """As a model's config.pbtxt says, but bf16 only where the CPU has it; elsewhere it would be slower than f32."""
    return "bf16" if parameters["precision"] == "bf16" and cpu_has_bf16() else "f32"


def _read(xml_path: Path) -> ov.Model:
    if not xml_path.is_file():
        raise FileNotFoundError(f"{xml_path} is missing")
    return ov.Core().read_model(xml_path)


def cpu_has_bf16(cpu_info_path: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies in bfloat16 itself. OpenVINO also takes bf16 without, and is slower then."""
    for line in cpu_info_path.read_text().splitlines():
        name, _, flags = line.partition(":")
        if name.strip() == "flags":
            return not _BF16_CPU_FLAGS.isdisjoint(flags.split())
    return False
