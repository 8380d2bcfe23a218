from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from build_engines import codec
from build_engines.checkpoint import Checkpoint
from build_engines.codec import PartName
from build_engines.networks.vocoder import Vocoder
from build_engines.synthetic import write_synthetic_checkpoint
from tritone.engines import Engine

PARTS = get_args(PartName)
OUTPUTS = {"speaker_encoder": "global_tokens", "semantic_encoder": "semantic_tokens", "vocoder": "waveform"}
STANDARD_DOMAINS = {"", "ai.onnx"}

Runner = Callable[[dict[str, np.ndarray]], np.ndarray]
Runners = dict[PartName, list[Runner]]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.fixture(scope="module")
def onnx_paths(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[PartName, Path]:
    directory = tmp_path_factory.mktemp("onnx")
    return {part: codec.export_onnx(checkpoint, part, directory / f"{part}.onnx") for part in PARTS}


@pytest.fixture(scope="module")
def xml_paths(onnx_paths: dict[PartName, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[PartName, Path]:
    directory = tmp_path_factory.mktemp("openvino")
    return {part: codec.convert_to_openvino(path, directory / f"{part}.xml") for part, path in onnx_paths.items()}


@pytest.fixture(scope="module")
def runners(checkpoint: Checkpoint, onnx_paths: dict[PartName, Path], xml_paths: dict[PartName, Path]) -> Runners:
    """What maps a part's inputs to its output: PyTorch, onnxruntime and OpenVINO."""

    def runners_of(part: PartName) -> list[Runner]:
        network = codec.reference(checkpoint, part).requires_grad_(False)
        session, engine = onnxruntime.InferenceSession(onnx_paths[part]), Engine(xml_paths[part])
        return [
            lambda inputs: network(*map(torch.from_numpy, inputs.values())).numpy(),
            lambda inputs: session.run([OUTPUTS[part]], inputs)[0],
            lambda inputs: engine.run(inputs)[OUTPUTS[part]],
        ]

    return {part: runners_of(part) for part in PARTS}


def make_inputs(part: PartName, batch_size: int, length: int) -> dict[str, np.ndarray]:
    """`length` is a number of tokens; the reference clip has but one length."""
    generator = np.random.default_rng(length)
    if part == "speaker_encoder":
        return {"reference_clip": generator.standard_normal((batch_size, 96000), dtype=np.float32)}
    if part == "semantic_encoder":
        return {"wav": generator.standard_normal((batch_size, 320 * length + 199), dtype=np.float32)}
    return {
        "global_tokens": generator.integers(4096, size=(batch_size, 32), dtype=np.int32),
        "semantic_tokens": generator.integers(8192, size=(batch_size, length), dtype=np.int32),
    }


def assert_same_output(part: PartName, found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if part == "vocoder":
        assert codec.signal_to_noise_db(found, expected) > 100
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("batch_size", "length"), [(1, 1), (1, 2), (2, 13), (3, 50), (1, 401)])
@pytest.mark.parametrize("part", PARTS)
def test_every_engine_equals_pytorch(part: PartName, batch_size: int, length: int, runners: Runners) -> None:
    inputs = make_inputs(part, batch_size, length)
    expected, *found = (run(inputs) for run in runners[part])
    assert len(found) == 2
    for output in found:
        assert output.dtype == expected.dtype and output.shape == expected.shape
        if part == "vocoder":
            assert codec.signal_to_noise_db(output, expected) > 100
        else:
            np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize("part", PARTS)
def test_onnx_graphs_use_standard_operators_only(part: PartName, onnx_paths: dict[PartName, Path]) -> None:
    onnx.checker.check_model(onnx_paths[part], full_check=True)
    model = onnx.load(onnx_paths[part])
    assert {opset.domain for opset in model.opset_import} <= STANDARD_DOMAINS
    assert not model.functions


@pytest.mark.parametrize("part", PARTS)
def test_the_export_repeats_itself_byte_for_byte(
    part: PartName, checkpoint: Checkpoint, onnx_paths: dict[PartName, Path], tmp_path: Path
) -> None:
    again = codec.export_onnx(checkpoint, part, tmp_path / "again.onnx")
    assert again.read_bytes() == onnx_paths[part].read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.onnx"]


def test_the_ir_is_written_as_a_pair_and_nothing_else(xml_paths: dict[PartName, Path]) -> None:
    names = {path.name for path in xml_paths["vocoder"].parent.iterdir()}
    assert names == {f"{part}.{suffix}" for part in PARTS for suffix in ("xml", "bin")}


@pytest.mark.parametrize("part", PARTS)
def test_verify_accepts_the_engines(part: PartName, checkpoint: Checkpoint, xml_paths: dict[PartName, Path]) -> None:
    checks = codec.verify_part(checkpoint, part, xml_paths[part], "f32")
    assert len(checks) > 1 and all(check.ok for check in checks)


def test_verify_accepts_the_vocoder_in_bf16(checkpoint: Checkpoint, xml_paths: dict[PartName, Path]) -> None:
    assert all(check.ok for check in codec.verify_part(checkpoint, "vocoder", xml_paths["vocoder"], "bf16"))


@pytest.mark.parametrize("part", PARTS)
def test_verify_refuses_engines_of_another_checkpoint(
    part: PartName, xml_paths: dict[PartName, Path], tmp_path: Path
) -> None:
    other = Checkpoint.open(write_synthetic_checkpoint(tmp_path / "other", "tiny", seed=1))
    assert not any(check.ok for check in codec.verify_part(other, part, xml_paths[part], "f32"))


def test_verify_refuses_a_waveform_of_another_length(checkpoint: Checkpoint) -> None:
    vocoder = Vocoder.from_checkpoint(checkpoint)

    def cut_short(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            return vocoder(*map(torch.from_numpy, inputs.values())).numpy()[:, :-1]

    assert not any(check.ok for check in codec.compare(checkpoint, "vocoder", cut_short, "f32"))


def test_verify_refuses_what_is_not_a_number(checkpoint: Checkpoint) -> None:
    vocoder = Vocoder.from_checkpoint(checkpoint)

    def broken(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            return vocoder(*map(torch.from_numpy, inputs.values())).numpy() * np.nan

    assert not any(check.ok for check in codec.compare(checkpoint, "vocoder", broken, "f32"))


def test_a_clip_of_one_frame_does_not_spoil_those_after_it(
    checkpoint: Checkpoint, xml_paths: dict[PartName, Path]
) -> None:
    engine = Engine(xml_paths["semantic_encoder"])
    encoder = codec.reference(checkpoint, "semantic_encoder").requires_grad_(False)
    for length in (1, 50):
        wav = make_inputs("semantic_encoder", 1, length)["wav"]
        np.testing.assert_array_equal(engine.run({"wav": wav})["semantic_tokens"], encoder(torch.from_numpy(wav)))
