"""How plans are built and compared, on a stand-in for TensorRT that runs their ONNX graphs."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from build_engines import checks, codec
from build_engines.checkpoint import Checkpoint
from build_engines.codec import ModelName
from build_engines.repository import MODEL_REPO_DIR, model_facts
from build_engines.tensorrt_plans import (
    SETTINGS,
    PlanSettings,
    SizeRange,
    build_plans,
    compare_plan,
    plan_graph,
    verify_plans,
)
from tests import fake_tensorrt
from tritone import tensorrt_engine
from tritone.spark_tts.codec import SemanticEncoder, SpeakerEncoder, Vocoder
from tritone.spark_tts.vocoder import full_stretches
from tritone.tensorrt_engine import PlanFacts, TensorRtError
from tritone.windows import StreamSettings

# as the product's, but small enough for a CPU
SMALL = PlanSettings(
    max_batch=2,
    usual_batch=1,
    wave_windows=(32, 64),
    usual_tokens=8,
    max_tokens=200,
    usual_reference_s=0.6,
    max_reference_s=1.0,
)
MODELS: dict[ModelName, tuple[str, ...]] = {
    "speaker_encoder": ("speaker_encoder",),
    "semantic_encoder": ("semantic_encoder",),
    "vocoder": ("vocoder_features", "vocoder_waves"),
}


@pytest.fixture(scope="module")
def fake() -> Iterator[None]:
    """TensorRT's stand-in on a GPU that is not there."""
    cached = (tensorrt_engine.this_platform, tensorrt_engine.cuda_device, tensorrt_engine.tensorrt_logger)
    for function in cached:
        function.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", fake_tensorrt)
        patch.setattr(tensorrt_engine, "CudaDevice", fake_tensorrt.Device)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L20")
        patch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
        # windows of the sizes that the small plans were built for
        patch.setattr("tritone.spark_tts.vocoder.WAVE_WINDOW_SIZES", SMALL.wave_windows)
        yield
    for function in cached:
        function.cache_clear()


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.fixture(scope="module")
def built(fake: None, checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's version folders with small plans of all three models."""
    directory = tmp_path_factory.mktemp("repository")
    for model in MODELS:
        build_plans(checkpoint, model, directory / model / "engine", directory / "timing.cache", SMALL)
        model_facts(checkpoint).save(directory / model)
    return directory


@pytest.fixture(scope="module")
def waves(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> codec.Run:
    """The wave generator's graph as it is built into a plan, in onnxruntime."""
    network = plan_graph(checkpoint, "vocoder_waves", tmp_path_factory.mktemp("onnx") / "waves.onnx", SMALL)
    session = onnxruntime.InferenceSession(network.SerializeToString())
    return lambda inputs: session.run(["waveform"], inputs)[0]


@pytest.mark.parametrize("model", MODELS)
def test_plans_are_built_with_what_is_known_of_them(model: ModelName, built: Path, checkpoint: Checkpoint) -> None:
    files = {path.name for path in (built / model / "engine").iterdir()}
    assert files == {f"{graph}.{suffix}" for graph in MODELS[model] for suffix in ("plan", "json")}
    for graph in MODELS[model]:
        facts = PlanFacts.load(built / model / "engine" / f"{graph}.plan")
        assert facts.checkpoint == checkpoint.fingerprint()
        assert facts.platform.tensorrt == fake_tensorrt.__version__ and facts.platform.gpu == "NVIDIA L20"
        assert facts.precision == ("fp16" if graph == "vocoder_waves" else "f32")


@pytest.mark.parametrize("model", MODELS)
def test_good_plans_are_accepted(model: ModelName, built: Path, checkpoint: Checkpoint) -> None:
    results = verify_plans(checkpoint, model, built / model / "engine", SMALL)
    assert len(results) >= 2
    checks.require(results)


def test_plans_of_another_checkpoint_are_refused(built: Path, demo_checkpoint: Path) -> None:
    with pytest.raises(TensorRtError, match="was built from another checkpoint than"):
        verify_plans(Checkpoint.open(demo_checkpoint), "vocoder", built / "vocoder" / "engine", SMALL)


def test_measured_kernels_are_kept_for_the_next_plan(built: Path) -> None:
    """The stand-in adds a word for each plan: four graphs."""
    assert (built / "timing.cache").read_bytes() == b"timed timed timed timed "


def test_what_another_gpu_measured_is_not_used(fake: None, checkpoint: Checkpoint, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"of another GPU")
    build_plans(checkpoint, "vocoder", tmp_path / "engine", cache, SMALL)
    assert cache.read_bytes() == b"timed timed "


def test_the_wave_generator_passes_at_every_size(waves: codec.Run, checkpoint: Checkpoint) -> None:
    results = compare_plan(checkpoint, "vocoder_waves", waves, SMALL)
    assert len(results) == 4 and all(result.ok for result in results)


def test_blank_audio_at_sizes_that_kernels_were_not_chosen_for_is_refused(
    waves: codec.Run, checkpoint: Checkpoint
) -> None:
    """What TensorRT was seen to do."""
    tuned = {range_.tuned for range_ in SMALL.sizes(checkpoint, "vocoder_waves")}

    def blank_elsewhere(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        return waves(inputs) * (inputs["mask"].shape in tuned)

    results = compare_plan(checkpoint, "vocoder_waves", blank_elsewhere, SMALL)
    assert [result.ok for result in results] == [True, False, True, False]
    with pytest.raises(checks.CheckFailed, match=r"vocoder_waves in fp16, batch of 2, length 32: 0 dB SNR"):
        checks.require(results)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_not_a_number_is_refused(broken: float, waves: codec.Run, checkpoint: Checkpoint) -> None:
    """What float16 gives where values leave its range."""

    def overflown(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        waveform = waves(inputs).copy()
        waveform[-1, -1] = broken
        return waveform

    assert not any(result.ok for result in compare_plan(checkpoint, "vocoder_waves", overflown, SMALL))


def test_sizes_at_and_between_the_bounds_are_compared() -> None:
    assert list(SizeRange((1, 1), (4, 128), (8, 512)).samples()) == [(1, 1), (2, 64), (4, 128), (6, 320), (8, 512)]
    assert list(SizeRange((1, 9), (1, 9), (2, 9)).samples()) == [(1, 9), (2, 9)]


def test_plans_cover_what_the_pipeline_asks_for(checkpoint: Checkpoint) -> None:
    stream = StreamSettings()
    published_field, published_wave_field = 67, 10
    kept = max(*full_stretches(published_wave_field), stream.max_chunk + stream.look_ahead)
    (features,) = SETTINGS.sizes(checkpoint, "vocoder_features")
    assert features.least == (1, 1) and features.most[1] >= kept + 2 * published_field
    (wav,) = SETTINGS.sizes(checkpoint, "semantic_encoder")
    (clip,) = SETTINGS.sizes(checkpoint, "speaker_encoder")
    for model in MODELS:
        for path in (MODEL_REPO_DIR / model).rglob("*.pbtxt"):
            config = text_format.Parse(path.read_text(), ModelConfig())
            assert config.max_batch_size <= SETTINGS.max_batch
            if model == "semantic_encoder":
                bounds_s = (float(config.parameters[f"{end}_reference_s"].string_value) for end in ("min", "max"))
                shortest, longest = (int(bound_s * checkpoint.sample_rate_hz) for bound_s in bounds_s)
                assert wav.least[1] <= shortest and longest <= wav.most[1]
    assert clip.most == (SETTINGS.max_batch, checkpoint.num_reference_samples)


def test_the_gpu_image_needs_no_openvino() -> None:
    code = (
        "import sys; sys.modules['openvino'] = None\n"
        "import build_engines.tensorrt_plans, tritone.spark_tts.codec, tritone.tensorrt_engine"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=MODEL_REPO_DIR.parent)


PARAMETERS = {"engine": "tensorrt", "min_reference_s": "0.5", "max_reference_s": "1"}


def test_the_encoders_run_on_plans_as_they_run_on_a_cpu(built: Path, checkpoint: Checkpoint) -> None:
    """Also more rows than a plan takes at once."""
    rng = np.random.default_rng(0)
    wavs = [rng.uniform(-0.5, 0.5, size=size).astype(np.float32) for size in (9000, 16000, 9000)]
    semantic = SemanticEncoder.load(built / "semantic_encoder", PARAMETERS).run(wavs)
    network = codec.reference(checkpoint, "semantic_encoder").requires_grad_(False)
    for wav, tokens in zip(wavs, semantic, strict=True):
        np.testing.assert_array_equal(tokens, network(torch.from_numpy(wav[None]))[0])
    speaker = SpeakerEncoder.load(built / "speaker_encoder", PARAMETERS).run(wavs)
    assert len(speaker) == 3 and not np.array_equal(speaker[0], speaker[1])


def test_the_vocoder_decodes_rows_of_any_length_together(built: Path, checkpoint: Checkpoint) -> None:
    """Longer ones than the plan takes, too: the tiny checkpoint's receptive field is 40 tokens, the plan's most 200."""
    vocoder = Vocoder.load(built / "vocoder", PARAMETERS)
    whole = codec.reference(checkpoint, "vocoder").requires_grad_(False)
    rng, requests = np.random.default_rng(0), []
    for length, begin, end in ((5, 0, 5), (60, 20, 60), (60, 0, 31), (200, 0, 200), (300, 130, 290)):
        tokens = codec._tokens(checkpoint, 1, length, rng)
        bounds = {"keep_begin": np.array([[begin]]), "keep_end": np.array([[end]])}
        requests.append((tokens, begin, end, vocoder.rows(tokens | bounds)[0]))
    waveforms = vocoder.run([row for _, _, _, row in requests])
    for (tokens, begin, end, _), waveform in zip(requests, waveforms, strict=True):
        expected = whole(*map(torch.from_numpy, tokens.values())).numpy()[0, 320 * begin : 320 * end]
        assert waveform.shape == expected.shape
        assert codec.signal_to_noise_db(waveform, expected) > codec.MIN_SNR_DB["fp16"]


def test_a_graph_that_tensorrt_cannot_take_is_not_built(
    fake: None, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("build_engines.onnx_checks.tensorrt_problems", lambda network: ["Sin: there is none"])
    with pytest.raises(TensorRtError, match="TensorRT cannot take vocoder_features: Sin: there is none"):
        build_plans(checkpoint, "vocoder", tmp_path, tmp_path / "timing.cache", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_stays_in_float32_is_that_of_the_cpu(checkpoint: Checkpoint, tmp_path: Path) -> None:
    exported = codec.export_onnx(checkpoint, "vocoder_features", tmp_path / "exported.onnx").read_bytes()
    assert plan_graph(checkpoint, "vocoder_features", tmp_path / "plan.onnx").SerializeToString() == exported
    assert [path.name for path in tmp_path.iterdir()] == ["exported.onnx"]
