import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from build_engines import layout
from build_engines.checkpoint import Checkpoint, CheckpointError, TensorFile

BICODEC_WEIGHTS = "BiCodec/model.safetensors"
WAV2VEC2_CONFIG = "wav2vec2-large-xlsr-53/config.json"


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def change_tensors(path: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(path) | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def change_config(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_settings_are_read_from_the_configs(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    assert (checkpoint.sample_rate_hz, checkpoint.hop_length, checkpoint.num_reference_samples) == (16000, 320, 96000)
    assert checkpoint.volume_normalize
    assert checkpoint.lm["rms_norm_eps"] == 1e-6
    assert checkpoint.wav2vec2["layer_norm_eps"] == 1e-5


def test_the_demo_voice_opens_with_its_seventeen_wav2vec2_layers(demo_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(demo_checkpoint)
    assert checkpoint.wav2vec2["num_hidden_layers"] == 17


@pytest.mark.parametrize(
    "name",
    ["config.yaml", BICODEC_WEIGHTS, WAV2VEC2_CONFIG, "wav2vec2-large-xlsr-53/pytorch_model.bin", "LLM/tokenizer.json"],
)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        Checkpoint.open(copy)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere is no folder"):
        Checkpoint.open(tmp_path / "nowhere")


def test_a_missing_tensor_is_named(copy: Path) -> None:
    change_tensors(copy / BICODEC_WEIGHTS, **{"prenet.linear.bias": None})
    with pytest.raises(CheckpointError, match=r"model.safetensors has no tensor prenet.linear.bias"):
        Checkpoint.open(copy)


def test_a_wrong_shape_is_named_with_both_shapes(copy: Path) -> None:
    change_tensors(copy / BICODEC_WEIGHTS, **{"prenet.linear.bias": torch.zeros(31)})
    with pytest.raises(CheckpointError, match=r"prenet.linear.bias has shape \[31\], expected \[32\]"):
        Checkpoint.open(copy)


def test_tensors_that_only_training_used_may_be_absent(copy: Path) -> None:
    names = layout.bicodec_training_tensors(Checkpoint.open(copy).bicodec)
    change_tensors(copy / BICODEC_WEIGHTS, **dict.fromkeys(names))
    Checkpoint.open(copy)


def test_a_missing_setting_is_named(copy: Path) -> None:
    config = copy / "LLM/config.json"
    config.write_text(
        json.dumps({name: value for name, value in json.loads(config.read_text()).items() if name != "hidden_size"})
    )
    with pytest.raises(CheckpointError, match="lack the setting 'hidden_size'"):
        Checkpoint.open(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_stable_layer_norm": False}, "do_stable_layer_norm is False, only True is supported"),
        ({"num_hidden_layers": 16}, "num_hidden_layers is 16, at least 17 are needed"),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 1]}, "product of conv_stride is 160, only 320 is supported"),
    ],
)
def test_an_architecture_that_is_not_supported_is_refused(copy: Path, changes: dict[str, object], message: str) -> None:
    change_config(copy / WAV2VEC2_CONFIG, **changes)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(copy)


@pytest.mark.parametrize("name", [WAV2VEC2_CONFIG, "config.yaml"])
def test_a_damaged_config_is_named(copy: Path, name: str) -> None:
    (copy / name).write_text("{ broken: [")
    with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
        Checkpoint.open(copy)


@pytest.mark.parametrize("name", [BICODEC_WEIGHTS, "wav2vec2-large-xlsr-53/pytorch_model.bin", "LLM/model.safetensors"])
@pytest.mark.parametrize("num_bytes", [0, 5, 1000, 100_000])
def test_a_cut_off_weights_file_is_named(copy: Path, name: str, num_bytes: int) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
        Checkpoint.open(copy)


def test_a_pickle_that_would_run_code_is_refused(copy: Path) -> None:
    path = copy / "wav2vec2-large-xlsr-53/pytorch_model.bin"
    torch.save({"wav2vec2.masked_spec_embed": Path("anything but a tensor")}, path)
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin cannot be read"):
        Checkpoint.open(copy)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_every_float_type_is_read_as_float32(tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    values = torch.tensor([[0.15625, -2.5, 3e4]]).to(dtype)
    path = tmp_path / f"weights.{suffix}"
    if suffix == "bin":
        torch.save({"x": values}, path)
    else:
        save_file({"x": values}, path)
    found = TensorFile(path).get("x", (1, 3))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.float().numpy())


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_integers_stay_integers(tmp_path: Path, suffix: str) -> None:
    values = {"count": torch.tensor(7, dtype=torch.int64)}
    path = tmp_path / f"weights.{suffix}"
    torch.save(values, path) if suffix == "bin" else save_file(values, path)
    found = TensorFile(path).get("count", ())
    assert found.dtype == np.int64 and found == 7


def test_a_tensor_that_is_changed_by_its_reader_is_not_changed_in_the_file(tiny_checkpoint: Path) -> None:
    for file, name in (
        (TensorFile(tiny_checkpoint / BICODEC_WEIGHTS), "prenet.linear.bias"),
        (TensorFile(tiny_checkpoint / "wav2vec2-large-xlsr-53/pytorch_model.bin"), "wav2vec2.encoder.layer_norm.bias"),
    ):
        before = file.get(name).copy()
        file.get(name)[:] = 0
        np.testing.assert_array_equal(file.get(name), before)


def test_the_fingerprint_tells_checkpoints_apart(tiny_checkpoint: Path, copy: Path) -> None:
    original = Checkpoint.open(tiny_checkpoint).fingerprint()
    assert Checkpoint.open(copy).fingerprint() == original
    change_tensors(copy / BICODEC_WEIGHTS, **{"prenet.linear.bias": torch.ones(32)})
    weights_changed = Checkpoint.open(copy).fingerprint()
    change_config(copy / WAV2VEC2_CONFIG, layer_norm_eps=1e-6)
    assert len({original, weights_changed, Checkpoint.open(copy).fingerprint()}) == 3
