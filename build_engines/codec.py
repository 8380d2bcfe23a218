"""The codec's three graphs: from the PyTorch networks to ONNX, from there to OpenVINO, and their comparison."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import openvino as ov
import torch
from torch import nn

from build_engines.checkpoint import Checkpoint
from build_engines.checks import Check
from build_engines.networks.semantic_encoder import SemanticEncoder
from build_engines.networks.speaker_encoder import SpeakerEncoder
from build_engines.networks.vocoder import Vocoder
from tritone.engines import Engine, Precision

PartName = Literal["speaker_encoder", "semantic_encoder", "vocoder"]
Arrays = dict[str, np.ndarray]

# The newest opset that TensorRT, OpenVINO and onnxruntime all read without conversion, and the first with LayerNorm.
_OPSET = 17

# A token counts as wrong when it differs from the reference's. Float rounding flips one in thousands, where two codes
# are equally near; a wrong graph flips most.
MIN_TOKEN_AGREEMENT = 0.99
# float32 engines differ by rounding: 110 to 126 dB measured. bfloat16 rounds every value by up to 2^-9, an error of
# about -54 dB at each of some 70 layers in a row, which sums to 36 dB: 32 to 39 dB were measured, at every size. That
# is far under what coding speech at 50 tokens a second loses; half as good an engine has something wrong.
MIN_WAVEFORM_SNR_DB: dict[Precision, float] = {"f32": 80.0, "bf16": 25.0}


@dataclass(frozen=True)
class _Part:
    """What is particular to one graph."""

    load: Callable[[Checkpoint], nn.Module]
    make_inputs: Callable[[Checkpoint, int, int, np.random.Generator], Arrays]  # of a batch size and a length
    dynamic_axes: dict[str, dict[int, str]]
    output: str
    shapes: tuple[tuple[int, int], ...]  # (batch size, length in tokens) at which engines are compared


class _Output(Protocol):
    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray: ...


def reference(checkpoint: Checkpoint, part: PartName) -> nn.Module:
    """The part's PyTorch network in float32, for inference: what its engines are compared with."""
    return _PARTS[part].load(checkpoint)


def export_onnx(checkpoint: Checkpoint, part: PartName, output: Path) -> Path:
    """Write one part as ONNX, with dynamic batch size and length, and return `output`."""
    spec = _PARTS[part]
    network = reference(checkpoint, part)
    example = spec.make_inputs(checkpoint, 2, 70, np.random.default_rng(0))
    output.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # The tracing exporter is deprecated, yet it makes the same graph as its successor in a twentieth of the time
        # (2 s instead of 40 s for the three parts), and what it writes is compared with PyTorch at other shapes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
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
    output_xml.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(ov.convert_model(onnx_path), output_xml, compress_to_fp16=False)
    return output_xml


def verify_part(checkpoint: Checkpoint, part: PartName, xml: Path, precision: Precision) -> list[Check]:
    """Compare an OpenVINO engine with PyTorch, one check for each batch size and length."""
    engine = Engine(xml, precision)
    output = _PARTS[part].output
    return compare(checkpoint, part, lambda inputs: engine.run(inputs)[output], precision)


def compare(checkpoint: Checkpoint, part: PartName, run: _Output, precision: Precision) -> list[Check]:
    """Compare anything that runs a part's graph with PyTorch: `run` maps the named inputs to the output."""
    spec, network = _PARTS[part], reference(checkpoint, part)
    generator = np.random.default_rng(1)
    checks = []
    for batch_size, length in spec.shapes:
        inputs = spec.make_inputs(checkpoint, batch_size, length, generator)
        with torch.inference_mode():
            expected = network(*(torch.from_numpy(array) for array in inputs.values())).numpy()
        found = run(inputs)
        name = f"{part} in {precision}, batch of {batch_size}, {length} tokens"
        if found.shape != expected.shape:
            checks.append(Check(f"{name}: shape {found.shape}, not {expected.shape}", 0.0, "", 1.0, ok=False))
        elif part == "vocoder":
            limit_db = MIN_WAVEFORM_SNR_DB[precision]
            checks.append(Check.at_least(name, signal_to_noise_db(found, expected), "dB SNR", limit_db))
        else:
            agreement = float(np.mean(found == expected))
            checks.append(Check.at_least(name, agreement, "tokens equal", MIN_TOKEN_AGREEMENT))
    return checks


def signal_to_noise_db(found: np.ndarray, expected: np.ndarray) -> float:
    """Power of `expected` over the power of the difference."""
    signal = np.square(expected, dtype=np.float64).sum()
    noise = np.square(found.astype(np.float64) - expected).sum()
    return float("inf") if noise == 0 else float(10 * np.log10(signal / noise))


def _reference_clips(checkpoint: Checkpoint, batch_size: int, _length: int, generator: np.random.Generator) -> Arrays:
    return {"reference_clip": _speech_like(checkpoint, batch_size, checkpoint.num_reference_samples, generator)}


def _wavs(checkpoint: Checkpoint, batch_size: int, length: int, generator: np.random.Generator) -> Arrays:
    # wav2vec2 needs 400 samples for its first frame; some more, so that the length is no multiple of the hop.
    return {"wav": _speech_like(checkpoint, batch_size, (length - 1) * checkpoint.hop_length + 407, generator)}


def _tokens(checkpoint: Checkpoint, batch_size: int, length: int, generator: np.random.Generator) -> Arrays:
    speaker = checkpoint.bicodec["speaker_encoder"]
    num_global_codes = int(np.prod(speaker["fsq_levels"]))
    num_semantic_codes = checkpoint.bicodec["quantizer"]["codebook_size"]
    return {
        "global_tokens": generator.integers(num_global_codes, size=(batch_size, speaker["token_num"]), dtype=np.int32),
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


_PARTS: dict[PartName, _Part] = {
    "speaker_encoder": _Part(
        load=SpeakerEncoder.from_checkpoint,
        make_inputs=_reference_clips,
        dynamic_axes={"reference_clip": {0: "batch"}, "global_tokens": {0: "batch"}},
        output="global_tokens",
        shapes=((1, 32), (3, 32)),
    ),
    "semantic_encoder": _Part(
        load=SemanticEncoder.from_checkpoint,
        make_inputs=_wavs,
        dynamic_axes={"wav": {0: "batch", 1: "num_samples"}, "semantic_tokens": {0: "batch", 1: "num_tokens"}},
        output="semantic_tokens",
        shapes=((1, 25), (1, 333), (2, 101)),
    ),
    "vocoder": _Part(
        load=Vocoder.from_checkpoint,
        make_inputs=_tokens,
        dynamic_axes={
            "global_tokens": {0: "batch"},
            "semantic_tokens": {0: "batch", 1: "num_tokens"},
            "waveform": {0: "batch", 1: "num_samples"},
        },
        output="waveform",
        shapes=((1, 1), (1, 7), (3, 50), (1, 201)),
    ),
}
