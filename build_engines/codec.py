"""The codec's graphs: from the PyTorch networks to ONNX, from there to OpenVINO, and their comparison."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import nn

from build_engines.checkpoint import Checkpoint
from build_engines.checks import Check
from build_engines.networks.semantic_encoder import SemanticEncoder
from build_engines.networks.speaker_encoder import SpeakerEncoder
from build_engines.networks.vocoder import Vocoder, VocoderFeatures, VocoderWaves, receptive_field_tokens
from build_engines.networks.wave_generator import wave_generator_field_tokens
from build_engines.onnx_precision import HalfType
from tritone.engines import Precision
from tritone.spark_tts.vocoder import VocoderEngine, VocoderRow

GraphName = Literal["speaker_encoder", "semantic_encoder", "vocoder_features", "vocoder_waves"]
ModelName = Literal["speaker_encoder", "semantic_encoder", "vocoder"]
GRAPHS: dict[ModelName, tuple[GraphName, ...]] = {
    "speaker_encoder": ("speaker_encoder",),
    "semantic_encoder": ("semantic_encoder",),
    "vocoder": ("vocoder_features", "vocoder_waves"),
}
Arrays = dict[str, np.ndarray]
Arithmetic = Precision | HalfType

# The newest opset that TensorRT, OpenVINO and onnxruntime all read without conversion, and the first with LayerNorm.
_OPSET = 17

# A token counts as wrong when it differs from the reference's. Float rounding flips one in thousands, where two codes
# are equally near; a wrong graph flips most.
MIN_TOKEN_AGREEMENT = 0.99
# float32 engines differ by rounding: 110 to 126 dB measured. bfloat16 rounds every value by up to 2^-9, an error of
# about -54 dB at each of some 70 layers in a row, which sums to 36 dB: 32 to 42 dB were measured. Half as good an
# engine has something wrong. float16 in the matrices of the wave generator alone, with float32 between them, gave 57 to
# 60 dB (onnx_precision.py).
MIN_SNR_DB: dict[Arithmetic, float] = {"f32": 80.0, "bf16": 25.0, "fp16": 40.0}


class Run(Protocol):
    """What does a network's work: the named inputs to its one output."""

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray: ...


# of a batch size and a length
MakeInputs = Callable[[Checkpoint, int, int, np.random.Generator], Arrays]


@dataclass(frozen=True)
class _Graph:
    """What is particular to one graph."""

    make_inputs: MakeInputs
    output: str
    dynamic_axes: dict[str, dict[int, str]]
    example_length: int = 70


@dataclass(frozen=True)
class _Model:
    """What is particular to the comparison of one served model."""

    make_inputs: MakeInputs
    open: Callable[[Checkpoint, Path, Precision], Run]  # the engine in a folder
    shapes: tuple[tuple[int, int], ...]  # (batch size, length in tokens) at which engines are compared


def reference(checkpoint: Checkpoint, name: GraphName | ModelName) -> nn.Module:
    """The PyTorch network in float32, for inference: what its engines are compared with."""
    return _NETWORKS[name](checkpoint).eval()


def build_engine(checkpoint: Checkpoint, model: ModelName, output_dir: Path) -> None:
    """Write the OpenVINO graphs of one model into a folder: `<graph>.xml`, `.bin` beside it."""
    for graph in GRAPHS[model]:
        onnx_path = export_onnx(checkpoint, graph, output_dir / f"{graph}.onnx")
        convert_to_openvino(onnx_path, output_dir / f"{graph}.xml")
        onnx_path.unlink()


def export_onnx(checkpoint: Checkpoint, graph: GraphName, output: Path) -> Path:
    """Write one graph as ONNX, with dynamic batch size and length, and return `output`."""
    spec = _GRAPHS[graph]
    example = spec.make_inputs(checkpoint, 2, spec.example_length, np.random.default_rng(0))
    output.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # The tracing exporter is deprecated, yet it makes the same graph as its successor in a twentieth of the time
        # (2 s instead of 40 s for all of them), and what it writes is compared with PyTorch at other shapes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            reference(checkpoint, graph),
            tuple(torch.from_numpy(array) for array in example.values()),
            output,
            input_names=list(example),
            output_names=[spec.output],
            dynamic_axes=spec.dynamic_axes,
            opset_version=_OPSET,
            dynamo=False,
        )
    return output


def convert_to_openvino(onnx_path: Path, output_xml: Path) -> Path:
    """Write an ONNX graph as OpenVINO IR (.xml, .bin beside it), weights in float32, and return `output_xml`."""
    import openvino as ov  # not in the GPU image, which needs the rest of this module

    from build_engines.cpu_rewrites import rewrite_for_cpu

    output_xml.parent.mkdir(parents=True, exist_ok=True)
    model = ov.Core().read_model(onnx_path)
    rewrite_for_cpu(model)
    ov.save_model(model, output_xml, compress_to_fp16=False)
    return output_xml


def verify_engine(checkpoint: Checkpoint, model: ModelName, engine_dir: Path, precision: Precision) -> list[Check]:
    """Compare a model's engine with PyTorch, one check for each batch size and length."""
    return compare(checkpoint, model, _MODELS[model].open(checkpoint, engine_dir, precision), precision)


def compare(checkpoint: Checkpoint, model: ModelName, run: Run, precision: Arithmetic) -> list[Check]:
    """Compare anything that does a model's work with PyTorch: `run` maps the named inputs to the output."""
    spec = _MODELS[model]
    return _compare(checkpoint, model, run, precision, spec.make_inputs, spec.shapes)


def compare_graph(
    checkpoint: Checkpoint, graph: GraphName, run: Run, precision: Arithmetic, shapes: Iterable[tuple[int, int]]
) -> list[Check]:
    """As `compare`, one graph at the given batch sizes and lengths (of the axis that `dynamic_axes` frees)."""
    return _compare(checkpoint, graph, run, precision, _GRAPHS[graph].make_inputs, shapes)


def _compare(
    checkpoint: Checkpoint,
    name: GraphName | ModelName,
    run: Run,
    precision: Arithmetic,
    make_inputs: MakeInputs,
    shapes: Iterable[tuple[int, int]],
) -> list[Check]:
    network = reference(checkpoint, name)
    generator = np.random.default_rng(1)
    checks = []
    for batch_size, length in shapes:
        inputs = make_inputs(checkpoint, batch_size, length, generator)
        with torch.inference_mode():
            expected = network(*(torch.from_numpy(array) for array in inputs.values())).numpy()
        found = run(inputs)
        title = f"{name} in {precision}, batch of {batch_size}, length {length}"
        if found.shape != expected.shape:
            checks.append(Check(f"{title}: shape {found.shape}, not {expected.shape}", 0.0, "", 1.0, ok=False))
        elif expected.dtype == np.float32:
            snr_db = signal_to_noise_db(found, expected)
            checks.append(Check.at_least(title, snr_db, "dB SNR", MIN_SNR_DB[precision]))
        else:
            agreement = float(np.mean(found == expected))
            checks.append(Check.at_least(title, agreement, "tokens equal", MIN_TOKEN_AGREEMENT))
    return checks


def output_name(graph: GraphName) -> str:
    """The name of a graph's one output."""
    return _GRAPHS[graph].output


def signal_to_noise_db(found: np.ndarray, expected: np.ndarray) -> float:
    """Power of `expected` over the power of the difference; NaN where `found` is not finite."""
    signal = np.square(expected, dtype=np.float64).sum()
    noise = np.square(found.astype(np.float64) - expected).sum()
    if not np.isfinite(noise):
        return float("nan")
    return float("inf") if noise == 0 else float(10 * np.log10(signal / noise))


def _reference_clips(checkpoint: Checkpoint, batch_size: int, _length: int, generator: np.random.Generator) -> Arrays:
    return {"reference_clip": _speech_like(checkpoint, batch_size, checkpoint.num_reference_samples, generator)}


def _wavs(checkpoint: Checkpoint, batch_size: int, num_samples: int, generator: np.random.Generator) -> Arrays:
    return {"wav": _speech_like(checkpoint, batch_size, num_samples, generator)}


def _wavs_of_tokens(checkpoint: Checkpoint, batch_size: int, length: int, generator: np.random.Generator) -> Arrays:
    # wav2vec2 needs 400 samples for its first frame; some more, so that the length is no multiple of the hop.
    return _wavs(checkpoint, batch_size, (length - 1) * checkpoint.hop_length + 407, generator)


def _tokens(checkpoint: Checkpoint, batch_size: int, length: int, generator: np.random.Generator) -> Arrays:
    """Any semantic tokens in voices that are heard: what nobody's voice is, a trained vocoder makes chaos of."""
    num_semantic_codes = checkpoint.bicodec["quantizer"]["codebook_size"]
    clips = _speech_like(checkpoint, batch_size, checkpoint.num_reference_samples, generator)
    with torch.inference_mode():
        voices = reference(checkpoint, "speaker_encoder")(torch.from_numpy(clips)).numpy()
    return {
        "global_tokens": voices,
        "semantic_tokens": generator.integers(num_semantic_codes, size=(batch_size, length), dtype=np.int32),
    }


def _speech_like(
    checkpoint: Checkpoint, batch_size: int, num_samples: int, generator: np.random.Generator
) -> np.ndarray:
    """Harmonics of a drifting pitch that come and go, over some noise: [batch, num_samples], peak about 0.5."""
    time_s = np.arange(num_samples) / checkpoint.sample_rate_hz
    clips = []
    for pitch_hz in generator.uniform(90, 250, size=batch_size):
        phase = 2 * np.pi * pitch_hz * (time_s + 0.01 * np.sin(2 * np.pi * 3 * time_s))
        voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 20))
        syllables = np.square(np.sin(2 * np.pi * 2 * time_s + pitch_hz))
        clips.append(0.25 * voice * syllables + 0.01 * generator.standard_normal(num_samples))
    return np.stack(clips).astype(np.float32)


def _features(checkpoint: Checkpoint, batch_size: int, length: int, generator: np.random.Generator) -> Arrays:
    """Windows at the beginning, in the middle and at the end of utterances; `length` is over two contexts."""
    tokens = _tokens(checkpoint, batch_size, length, generator)
    with torch.inference_mode():
        features = reference(checkpoint, "vocoder_features")(*map(torch.from_numpy, tokens.values())).numpy()
    context = wave_generator_field_tokens(checkpoint.bicodec["decoder"])
    num_before, num_behind = generator.integers(context + 1, size=(2, batch_size, 1))  # the utterance does not reach
    present = (num_before <= np.arange(length)) & (np.arange(length) < length - num_behind)
    return {"features": features, "mask": present.astype(np.float32)}


def open_vocoder(checkpoint: Checkpoint, engine_dir: Path, parameters: Mapping[str, str]) -> Run:
    """The vocoder as the server runs it, on whole utterances; `parameters` as in the model's config.pbtxt."""
    fields = (receptive_field_tokens(checkpoint.bicodec), wave_generator_field_tokens(checkpoint.bicodec["decoder"]))
    engine = VocoderEngine.open(engine_dir, *fields, parameters)

    def decode(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        rows = zip(inputs["global_tokens"], inputs["semantic_tokens"], strict=True)
        return np.stack(engine.decode([VocoderRow(voice, speech, 0, len(speech)) for voice, speech in rows]))

    return decode


def _open_graph(graph: GraphName) -> Callable[[Checkpoint, Path, Precision], Run]:
    def open_engine(_checkpoint: Checkpoint, engine_dir: Path, precision: Precision) -> Run:
        from tritone.openvino_engine import OpenVinoEngine

        engine = OpenVinoEngine(engine_dir / f"{graph}.xml", precision)
        return lambda inputs: engine.run(inputs)[_GRAPHS[graph].output]

    return open_engine


def _open_vocoder(checkpoint: Checkpoint, engine_dir: Path, precision: Precision) -> Run:
    return open_vocoder(checkpoint, engine_dir, {"precision": precision, "num_threads": "0"})


_GRAPHS: dict[GraphName, _Graph] = {
    "speaker_encoder": _Graph(
        make_inputs=_reference_clips,
        output="global_tokens",
        dynamic_axes={"reference_clip": {0: "batch"}, "global_tokens": {0: "batch"}},
    ),
    "semantic_encoder": _Graph(
        make_inputs=_wavs,
        output="semantic_tokens",
        dynamic_axes={"wav": {0: "batch", 1: "num_samples"}, "semantic_tokens": {0: "batch", 1: "num_tokens"}},
        example_length=22487,  # no multiple of the hop
    ),
    "vocoder_features": _Graph(
        make_inputs=_tokens,
        output="features",
        dynamic_axes={
            "global_tokens": {0: "batch"},
            "semantic_tokens": {0: "batch", 1: "num_tokens"},
            "features": {0: "batch", 1: "num_tokens"},
        },
    ),
    "vocoder_waves": _Graph(
        make_inputs=_features,
        output="waveform",
        dynamic_axes={
            "features": {0: "batch", 1: "num_frames"},
            "mask": {0: "batch", 1: "num_frames"},
            "waveform": {0: "batch", 1: "num_samples"},
        },
    ),
}

_MODELS: dict[ModelName, _Model] = {
    "speaker_encoder": _Model(_reference_clips, _open_graph("speaker_encoder"), shapes=((1, 32), (3, 32))),
    "semantic_encoder": _Model(_wavs_of_tokens, _open_graph("semantic_encoder"), shapes=((1, 25), (1, 333), (2, 101))),
    "vocoder": _Model(_tokens, _open_vocoder, shapes=((1, 1), (1, 7), (3, 50), (1, 201), (1, 500))),
}

_NETWORKS: dict[GraphName | ModelName, Callable[[Checkpoint], nn.Module]] = {
    "speaker_encoder": SpeakerEncoder.from_checkpoint,
    "semantic_encoder": SemanticEncoder.from_checkpoint,
    "vocoder": Vocoder.from_checkpoint,
    "vocoder_features": lambda checkpoint: VocoderFeatures(Vocoder.from_checkpoint(checkpoint)),
    "vocoder_waves": lambda checkpoint: VocoderWaves(Vocoder.from_checkpoint(checkpoint)),
}
