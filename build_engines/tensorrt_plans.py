"""The codec's graphs as TensorRT plans, and their comparison with PyTorch. Building needs a GPU and `tensorrt`.

A plan is built from the ONNX graph that the CPU profile's engine is built from (cpu_rewrites.py changes OpenVINO's own
graph, after ONNX), as a strongly typed network: TensorRT chooses kernels, never types. The types are these:

- Both encoders and the first half of the vocoder: float32, without TF32. Encoders run once per voice and a flipped
  token changes the voice; the first half of the vocoder holds the largest values and costs next to nothing.
- The wave generator: matrices in float16, everything between them in float32 (onnx_precision.py). Rounded like that in
  onnxruntime it is 57 to 60 dB from float32; with bfloat16 it is 39 to 44 dB (the synthetic checkpoints, tiny and of
  the published sizes, and the demo voice). Range is no concern there: the largest value in the whole vocoder was 126,
  float16 reaches 65504. Weights for which that is different fail their comparison and are not published.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from build_engines import codec, onnx_checks
from build_engines.checkpoint import Checkpoint
from build_engines.checks import Check
from build_engines.codec import GRAPHS, GraphName, ModelName
from build_engines.onnx_precision import HalfType, with_half_matrices
from tritone.spark_tts.vocoder import WAVE_WINDOW_SIZES
from tritone.tensorrt_engine import (
    PlanFacts,
    Profile,
    TensorRtEngine,
    TensorRtError,
    tensorrt,
    tensorrt_logger,
    this_platform,
)

Size = tuple[int, int]  # rows, and the length of each


@dataclass(frozen=True)
class SizeRange:
    """What one optimisation profile takes: the least, what kernels are chosen for, the most."""

    least: Size
    tuned: Size
    most: Size

    def samples(self) -> Iterator[Size]:
        """The bounds, what kernels were chosen for, and sizes between, where TensorRT was seen to go wrong."""
        yield from dict.fromkeys(
            (
                self.least,
                _between(self.least, self.tuned),
                self.tuned,
                _between(self.tuned, self.most),
                self.most,
            )
        )


@dataclass(frozen=True)
class PlanSettings:
    """How plans are built.

    Attributes:
        half_graphs: graphs whose matrices are not in float32, and what they are in.
        max_batch: rows that run together, as many as Triton hands over at once (max_batch_size of the configs).
        usual_batch: what kernels are chosen for.
        wave_windows: the sizes of the vocoder's windows, in frames; each gets a profile of its own, hence kernels for
            just that length and any batch.
        usual_tokens, max_tokens: of the vocoder's first half. The pipeline's windows have at most 172 tokens and the
            receptive field, 67, on both sides; longer rows are decoded in parts.
        min_reference_s, usual_reference_s, max_reference_s: of the semantic encoder; the configs allow 0.5 to 30 s. It
            runs rows one by one: references are seldom of one length, and padding would change tokens.
        max_workspace_bytes: memory that a kernel may ask for besides its tensors; the language model needs the rest.
    """

    half_graphs: tuple[tuple[GraphName, HalfType], ...] = (("vocoder_waves", "fp16"),)
    max_batch: int = 8
    usual_batch: int = 4
    wave_windows: tuple[int, ...] = WAVE_WINDOW_SIZES
    usual_tokens: int = 128
    max_tokens: int = 512
    min_reference_s: float = 0.5
    usual_reference_s: float = 6.0
    max_reference_s: float = 30.0
    max_workspace_bytes: int = 2 << 30

    def precision(self, graph: GraphName) -> codec.Arithmetic:
        """What a graph's matrices are multiplied in."""
        return dict(self.half_graphs).get(graph, "f32")

    def sizes(self, checkpoint: Checkpoint, graph: GraphName) -> list[SizeRange]:
        """The optimisation profiles of a graph's plan."""
        if graph == "vocoder_waves":
            return [
                SizeRange((1, frames), (self.usual_batch, frames), (self.max_batch, frames))
                for frames in self.wave_windows
            ]
        if graph == "vocoder_features":
            return [SizeRange((1, 1), (self.usual_batch, self.usual_tokens), (self.max_batch, self.max_tokens))]
        if graph == "speaker_encoder":
            clip = checkpoint.num_reference_samples
            return [SizeRange((1, clip), (1, clip), (self.max_batch, clip))]
        durations_s = (self.min_reference_s, self.usual_reference_s, self.max_reference_s)
        least, tuned, most = (int(duration_s * checkpoint.sample_rate_hz) for duration_s in durations_s)
        return [SizeRange((1, least), (1, tuned), (1, most))]


SETTINGS = PlanSettings()


def build_plans(
    checkpoint: Checkpoint,
    model: ModelName,
    output_dir: Path,
    timing_cache: Path,
    settings: PlanSettings = SETTINGS,
) -> None:
    """Write the TensorRT plans of one model into a folder: `<graph>.plan`, and `<graph>.json` that tells of it.

    The counterpart of `codec.build_engine`; compare the result (`verify_plans`) before it is published.

    Args:
        timing_cache: what earlier builds on this GPU measured; read where it exists, and written. One file serves all
            models.

    Raises:
        TensorRtError: the package `tensorrt` or a GPU is missing, or TensorRT refuses a graph; says which and why.
    """
    platform = this_platform()
    output_dir.mkdir(parents=True, exist_ok=True)
    for graph in GRAPHS[model]:
        network = plan_graph(checkpoint, graph, output_dir / f"{graph}.onnx", settings)
        profiles = plan_profiles(network, settings.sizes(checkpoint, graph))
        plan = output_dir / f"{graph}.plan"
        _build_plan(network, profiles, plan, timing_cache, settings.max_workspace_bytes)
        PlanFacts(platform, checkpoint.fingerprint(), settings.precision(graph), profiles).save(plan)


def verify_plans(
    checkpoint: Checkpoint, model: ModelName, plan_dir: Path, settings: PlanSettings = SETTINGS
) -> list[Check]:
    """Compare a model's plans with PyTorch: each graph at sizes of all its profiles, then the model as it is served.

    The counterpart of `codec.verify_engine`; `checks.require` on the result refuses what differs. The ONNX graphs that
    the plans were built from are held to the same reference by the tests.

    Raises:
        FileNotFoundError: a plan is missing.
        TensorRtError: a plan was built by another TensorRT, for another GPU or from another checkpoint.
    """
    results: list[Check] = []
    for graph in GRAPHS[model]:
        plan = plan_dir / f"{graph}.plan"
        if PlanFacts.load(plan).checkpoint != checkpoint.fingerprint():
            raise TensorRtError(f"{plan} was built from another checkpoint than {checkpoint.directory}")
        results += compare_plan(checkpoint, graph, on_host(TensorRtEngine(plan), graph), settings)
    if model == "vocoder":
        run = codec.open_vocoder(checkpoint, plan_dir, {"engine": "tensorrt"})
        results += codec.compare(checkpoint, model, run, settings.precision("vocoder_waves"))
    return results


def compare_plan(
    checkpoint: Checkpoint, graph: GraphName, run: codec.Run, settings: PlanSettings = SETTINGS
) -> list[Check]:
    """Compare anything that does a graph's work with PyTorch, at sizes of all of its profiles."""
    sizes = dict.fromkeys(size for range_ in settings.sizes(checkpoint, graph) for size in range_.samples())
    return codec.compare_graph(checkpoint, graph, run, settings.precision(graph), sizes)


def on_host(engine: TensorRtEngine, graph: GraphName) -> codec.Run:
    """An engine from NumPy to NumPy."""
    return lambda inputs: engine.device.to_host(engine.run(inputs)[codec.output_name(graph)])


def plan_graph(
    checkpoint: Checkpoint, graph: GraphName, onnx_path: Path, settings: PlanSettings = SETTINGS
) -> onnx.ModelProto:
    """The ONNX graph that a plan is built from, float32 or mixed; `onnx_path` is used and removed.

    Raises:
        TensorRtError: it has something that TensorRT does not take.
    """
    network = onnx.load(codec.export_onnx(checkpoint, graph, onnx_path))
    onnx_path.unlink()
    half = dict(settings.half_graphs).get(graph)
    if half is not None:
        network = with_half_matrices(network, half)
    problems = onnx_checks.tensorrt_problems(network)
    if problems:
        raise TensorRtError(f"TensorRT cannot take {graph}: {'; '.join(problems)}")
    return network


def plan_profiles(network: onnx.ModelProto, sizes: list[SizeRange]) -> tuple[Profile, ...]:
    """The shapes of a graph's inputs for each range of sizes: the axis `batch` is the rows, any other the length."""
    axes = onnx_checks.axes(network)
    inputs = {value.name: axes[value.name] for value in network.graph.input}

    def shapes(size: Size) -> dict[str, tuple[int, ...]]:
        rows, length = size
        return {
            name: tuple(axis if isinstance(axis, int) else rows if axis == "batch" else length for axis in of_input)
            for name, of_input in inputs.items()
        }

    return tuple(Profile(shapes(range_.least), shapes(range_.tuned), shapes(range_.most)) for range_ in sizes)


def _build_plan(
    network: onnx.ModelProto, profiles: tuple[Profile, ...], plan: Path, timing_cache: Path, max_workspace_bytes: int
) -> None:
    trt = tensorrt()
    logger = tensorrt_logger()
    builder = trt.Builder(logger)
    definition = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(definition, logger)
    if not parser.parse(network.SerializeToString()):
        reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise TensorRtError(f"TensorRT cannot read {plan.stem}: {reasons}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, max_workspace_bytes)
    for profile in profiles:
        of_plan = builder.create_optimization_profile()
        for name in profile.least:
            of_plan.set_shape(name, profile.least[name], profile.tuned[name], profile.most[name])
        config.add_optimization_profile(of_plan)
    _use_timings(config, timing_cache)
    built = builder.build_serialized_network(definition, config)
    if built is None:
        raise TensorRtError(f"TensorRT could not build {plan.stem}; its own messages are in the log")
    plan.write_bytes(built)
    timing_cache.parent.mkdir(parents=True, exist_ok=True)
    timing_cache.write_bytes(config.get_timing_cache().serialize())


def _use_timings(config: Any, timing_cache: Path) -> None:
    """Begin with what earlier builds measured, unless another TensorRT or GPU did."""
    known = config.create_timing_cache(timing_cache.read_bytes()) if timing_cache.is_file() else None
    if known is None or not config.set_timing_cache(known, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _between(low: Size, high: Size) -> Size:
    return (low[0] + high[0]) // 2, (low[1] + high[1]) // 2
