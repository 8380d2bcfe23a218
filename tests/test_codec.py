from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from build_engines import codec
from build_engines.checkpoint import Checkpoint
from build_engines.codec import GraphName, ModelName
from build_engines.networks.vocoder import Vocoder, receptive_field_tokens
from build_engines.networks.wave_generator import wave_generator_field_tokens
from build_engines.synthetic import write_synthetic_checkpoint
from tritone.engines import Host
from tritone.openvino_engine import OpenVinoEngine
from tritone.spark_tts.vocoder import WAVE_WINDOW_SIZES, VocoderEngine, VocoderRow, full_stretches

GRAPHS = get_args(GraphName)
MODELS = get_args(ModelName)
OUTPUTS: dict[GraphName, str] = {
    "speaker_encoder": "global_tokens",
    "semantic_encoder": "semantic_tokens",
    "vocoder_features": "features",
    "vocoder_waves": "waveform",
}
STANDARD_DOMAINS = {"", "ai.onnx"}
WAVE_FIELD = 10  # of the tiny checkpoint, as of the published one

Runner = Callable[[dict[str, np.ndarray]], np.ndarray]
Runners = dict[GraphName, list[Runner]]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.fixture(scope="module")
def onnx_paths(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[GraphName, Path]:
    directory = tmp_path_factory.mktemp("onnx")
    return {graph: codec.export_onnx(checkpoint, graph, directory / f"{graph}.onnx") for graph in GRAPHS}


@pytest.fixture(scope="module")
def engine_dir(onnx_paths: dict[GraphName, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("openvino")
    for graph, path in onnx_paths.items():
        codec.convert_to_openvino(path, directory / f"{graph}.xml")
    return directory


@pytest.fixture(scope="module")
def runners(checkpoint: Checkpoint, onnx_paths: dict[GraphName, Path], engine_dir: Path) -> Runners:
    """What maps a graph's inputs to its output: PyTorch, onnxruntime and OpenVINO."""

    def runners_of(graph: GraphName) -> list[Runner]:
        network = codec.reference(checkpoint, graph).requires_grad_(False)
        session, engine = onnxruntime.InferenceSession(onnx_paths[graph]), OpenVinoEngine(engine_dir / f"{graph}.xml")
        return [
            lambda inputs: network(*map(torch.from_numpy, inputs.values())).numpy(),
            lambda inputs: session.run([OUTPUTS[graph]], inputs)[0],
            lambda inputs: engine.run(inputs)[OUTPUTS[graph]],
        ]

    return {graph: runners_of(graph) for graph in GRAPHS}


@pytest.fixture(scope="module")
def vocoder(checkpoint: Checkpoint) -> Vocoder:
    return Vocoder.from_checkpoint(checkpoint).requires_grad_(False)


def make_inputs(graph: GraphName, batch_size: int, length: int) -> dict[str, np.ndarray]:
    """`length` is a number of tokens that come in or out; the reference clip has but one length."""
    generator = np.random.default_rng(length)
    if graph == "speaker_encoder":
        return {"reference_clip": generator.standard_normal((batch_size, 96000), dtype=np.float32)}
    if graph == "semantic_encoder":
        return {"wav": generator.standard_normal((batch_size, 320 * length + 199), dtype=np.float32)}
    if graph == "vocoder_waves":
        size = length + 2 * WAVE_FIELD
        begins, ends = generator.integers(WAVE_FIELD + 1, size=(2, batch_size, 1))
        frames = np.arange(size)
        mask = ((begins <= frames) & (frames < size - ends)).astype(np.float32)
        return {"features": generator.standard_normal((batch_size, size, 32), dtype=np.float32), "mask": mask}
    return make_tokens(batch_size, length)


def make_tokens(batch_size: int, length: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(length)
    return {
        "global_tokens": generator.integers(4096, size=(batch_size, 32), dtype=np.int32),
        "semantic_tokens": generator.integers(8192, size=(batch_size, length), dtype=np.int32),
    }


@pytest.mark.parametrize(("batch_size", "length"), [(1, 1), (1, 2), (2, 13), (3, 50), (1, 401)])
@pytest.mark.parametrize("graph", GRAPHS)
def test_every_engine_equals_pytorch(graph: GraphName, batch_size: int, length: int, runners: Runners) -> None:
    inputs = make_inputs(graph, batch_size, length)
    expected, *found = (run(inputs) for run in runners[graph])
    assert len(found) == 2
    for output in found:
        assert output.dtype == expected.dtype and output.shape == expected.shape
        if graph.startswith("vocoder"):
            assert codec.signal_to_noise_db(output, expected) > 100
        else:
            np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize("graph", GRAPHS)
def test_onnx_graphs_use_standard_operators_only(graph: GraphName, onnx_paths: dict[GraphName, Path]) -> None:
    onnx.checker.check_model(onnx_paths[graph], full_check=True)
    model = onnx.load(onnx_paths[graph])
    assert {opset.domain for opset in model.opset_import} <= STANDARD_DOMAINS
    assert not model.functions


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_export_repeats_itself_byte_for_byte(
    graph: GraphName, checkpoint: Checkpoint, onnx_paths: dict[GraphName, Path], tmp_path: Path
) -> None:
    again = codec.export_onnx(checkpoint, graph, tmp_path / "again.onnx")
    assert again.read_bytes() == onnx_paths[graph].read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.onnx"]


def test_the_ir_is_written_as_a_pair_and_nothing_else(checkpoint: Checkpoint, tmp_path: Path) -> None:
    codec.build_engine(checkpoint, "vocoder", tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"vocoder_{half}.{suffix}" for half in ("features", "waves") for suffix in ("xml", "bin")}


@pytest.mark.parametrize("model", MODELS)
def test_verify_accepts_the_engines(model: ModelName, checkpoint: Checkpoint, engine_dir: Path) -> None:
    checks = codec.verify_engine(checkpoint, model, engine_dir, "f32")
    assert len(checks) > 1 and all(check.ok for check in checks)


def test_verify_accepts_the_vocoder_in_bf16(checkpoint: Checkpoint, engine_dir: Path) -> None:
    assert all(check.ok for check in codec.verify_engine(checkpoint, "vocoder", engine_dir, "bf16"))


@pytest.mark.parametrize("model", MODELS)
def test_verify_refuses_engines_of_another_checkpoint(model: ModelName, engine_dir: Path, tmp_path: Path) -> None:
    other = Checkpoint.open(write_synthetic_checkpoint(tmp_path / "other", "tiny", seed=1))
    assert not any(check.ok for check in codec.verify_engine(other, model, engine_dir, "f32"))


def test_verify_refuses_a_waveform_of_another_length(checkpoint: Checkpoint, vocoder: Vocoder) -> None:
    def cut_short(inputs: dict[str, np.ndarray]) -> np.ndarray:
        return vocoder(*map(torch.from_numpy, inputs.values())).numpy()[:, :-1]

    assert not any(check.ok for check in codec.compare(checkpoint, "vocoder", cut_short, "f32"))


def test_verify_refuses_what_is_not_a_number(checkpoint: Checkpoint, vocoder: Vocoder) -> None:
    def broken(inputs: dict[str, np.ndarray]) -> np.ndarray:
        return vocoder(*map(torch.from_numpy, inputs.values())).numpy() * np.nan

    assert not any(check.ok for check in codec.compare(checkpoint, "vocoder", broken, "f32"))


def test_a_clip_of_one_frame_does_not_spoil_those_after_it(checkpoint: Checkpoint, engine_dir: Path) -> None:
    engine = OpenVinoEngine(engine_dir / "semantic_encoder.xml")
    encoder = codec.reference(checkpoint, "semantic_encoder").requires_grad_(False)
    for length in (1, 50):
        wav = make_inputs("semantic_encoder", 1, length)["wav"]
        np.testing.assert_array_equal(engine.run({"wav": wav})["semantic_tokens"], encoder(torch.from_numpy(wav)))


@pytest.fixture(scope="module")
def vocoder_engine(checkpoint: Checkpoint, engine_dir: Path) -> VocoderEngine:
    fields = (receptive_field_tokens(checkpoint.bicodec), wave_generator_field_tokens(checkpoint.bicodec["decoder"]))
    return VocoderEngine.open(engine_dir, *fields, {"precision": "f32", "num_threads": "0"})


def decode(engine: VocoderEngine, tokens: dict[str, np.ndarray], begin: int = 0, end: int | None = None) -> np.ndarray:
    """The samples of tokens [begin, end) of a batch of one."""
    (voice,), (speech,) = tokens["global_tokens"], tokens["semantic_tokens"]
    return engine.decode([VocoderRow(voice, speech, begin, end or len(speech))])[0]


@pytest.mark.parametrize("length", [*range(1, 36), 64, 65, 128, 171, 172, 173, 192, 193, 400, 777])
def test_the_vocoder_engine_gives_the_whole_waveform_at_every_length(
    length: int, vocoder: Vocoder, vocoder_engine: VocoderEngine
) -> None:
    tokens = make_tokens(1, length)
    found = decode(vocoder_engine, tokens)
    expected = vocoder(*map(torch.from_numpy, tokens.values())).numpy()[0]
    assert found.shape == expected.shape
    assert codec.signal_to_noise_db(found, expected) > 90


@pytest.mark.parametrize(("begin", "end"), [(0, 1), (0, 300), (299, 300), (10, 182), (10, 183), (128, 300), (150, 151)])
def test_the_vocoder_engine_decodes_any_stretch(
    begin: int, end: int, vocoder: Vocoder, vocoder_engine: VocoderEngine
) -> None:
    tokens = make_tokens(1, 300)
    found = decode(vocoder_engine, tokens, begin, end)
    expected = vocoder(*map(torch.from_numpy, tokens.values())).numpy()[0, 320 * begin : 320 * end]
    assert found.shape == expected.shape
    assert codec.signal_to_noise_db(found, expected) > 90


class Counted:
    """A wave generator of one size that says nothing, and how often it was run."""

    device, max_batch, max_length = Host(), None, None

    def __init__(self, size: int) -> None:
        self.silence = np.zeros((1, 320 * (size - 2 * WAVE_FIELD)), np.float32)
        self.num_runs = 0

    def run(self, _inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.num_runs += 1
        return {"waveform": self.silence}


def test_a_full_stretch_fills_one_window_and_one_token_more_the_next(engine_dir: Path) -> None:
    features, tokens = OpenVinoEngine(engine_dir / "vocoder_features.xml"), make_tokens(1, 400)
    assert len(full_stretches(WAVE_FIELD)) == len(WAVE_WINDOW_SIZES)

    def runs(length: int) -> list[int]:
        waves = {size: Counted(size) for size in WAVE_WINDOW_SIZES}
        decode(VocoderEngine(features, waves, 40, WAVE_FIELD, max_batch=1), tokens, 0, length)
        return [waves[size].num_runs for size in WAVE_WINDOW_SIZES]

    for index, length in enumerate(full_stretches(WAVE_FIELD)):
        assert runs(length) == [int(place == index) for place in range(len(WAVE_WINDOW_SIZES))]
        assert runs(length + 1)[index] == (1 if length == max(full_stretches(WAVE_FIELD)) else 0)


def test_the_vocoder_engine_refuses_windows_without_room(engine_dir: Path) -> None:
    with pytest.raises(ValueError, match="over 20 frames"):
        engine = OpenVinoEngine(engine_dir / "vocoder_features.xml")
        VocoderEngine(engine, {20: engine}, receptive_field=40, wave_field=10, max_batch=1)
