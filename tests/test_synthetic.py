"""The hashes are of the reference script's output: the tensors every implementation of these checkpoints must write."""

import hashlib
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from build_engines import layout, synthetic
from build_engines.checkpoint import Checkpoint, TensorFile
from build_engines.synthetic import SIZES, SizeName, write_synthetic_checkpoint

TINY_VALUES_SHA256 = {
    "BiCodec/model.safetensors": "96527f68a6efbf9ee932e1682d87cd7cc2f73afa4edcda24f41eec79c035f31f",
    "wav2vec2-large-xlsr-53/pytorch_model.bin": "816f20e7e78af522bf4fd8044621fbe72f1076d6d85c7299d5e2cff7f03422e1",
    "LLM/model.safetensors": "45ab62f4aed67a155e1c23d10d830d7e8d67e6de5a4cb34197f1524e09215b4b",
}
TINY_TOKENIZER_SHA256 = "1527fa32581b0c45ec0ccc2bdc4dd9fb8d21eaa205115d6b1ea3f3c902449708"
# Of the sorted list of [name, shape] of every tensor in the file; `full` is the published checkpoint's layout.
LAYOUT_SHA256: dict[SizeName, dict[str, str]] = {
    "tiny": {
        "bicodec": "4b5f81af281260a0f978e8acd250ee0837ab69387be19ae4d0f0d4c9c4152db8",
        "wav2vec2": "2dbf0df98ec0e8d0c0e2bd48cb5156dc80079f3d04322d9234f3935521f9a70e",
        "lm": "0bf9b4b292d7b1ca22c453873eb76a411cd0b12d90d3fbd48e2c8725454e3049",
    },
    "full": {
        "bicodec": "cf58148620e21d5be00c8367c0cb22ffebc44843cc9ea0c79073c4ea092dc95d",
        "wav2vec2": "e3a1eb78342c893c92d310aed1ebe49b78e4bf909b2d3eea9c43e0df50f357f4",
        "lm": "019e92a9ea0022971250c838019a1dd6911057b496f27b814b32ced00ff08ef6",
    },
}


@pytest.mark.parametrize("size", ["tiny", "full"])
def test_the_layout_is_the_published_one(size: SizeName) -> None:
    bicodec, wav2vec2 = synthetic.bicodec_config(SIZES[size]), synthetic.wav2vec2_config(SIZES[size])
    layouts = {
        "bicodec": layout.bicodec_tensors(bicodec) | layout.bicodec_training_tensors(bicodec),
        "wav2vec2": layout.wav2vec2_tensors(wav2vec2) | layout.wav2vec2_training_tensors(wav2vec2),
        "lm": layout.lm_tensors(synthetic.lm_config(SIZES[size])),
    }
    found = {name: hashlib.sha256(json.dumps(sorted(shapes.items())).encode()) for name, shapes in layouts.items()}
    assert {name: digest.hexdigest() for name, digest in found.items()} == LAYOUT_SHA256[size]


@pytest.mark.parametrize("name", TINY_VALUES_SHA256)
def test_tiny_has_the_reference_values(tiny_checkpoint: Path, name: str) -> None:
    file = TensorFile(tiny_checkpoint / name)
    digest = hashlib.sha256()
    for tensor_name in sorted(file.names()):
        values = file.get(tensor_name)
        digest.update(tensor_name.encode() + str(values.dtype).encode() + values.tobytes())
    assert digest.hexdigest() == TINY_VALUES_SHA256[name]


def test_the_tokenizer_is_the_reference_one(tiny_checkpoint: Path) -> None:
    path = Checkpoint.open(tiny_checkpoint).tokenizer_path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == TINY_TOKENIZER_SHA256


def test_full_size_has_the_published_token_ids(tmp_path: Path) -> None:
    synthetic.write_tokenizer(tmp_path / "tokenizer.json", SIZES["full"].num_byte_pair_tokens)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    published_ids = {
        "<|im_end|>": 151645,
        "<|bicodec_global_0|>": 151665,
        "<|bicodec_semantic_8191|>": 163952,
        "<|pitch_label_0|>": 164965,
        "<|gender_0|>": 165032,
        "<|task_controllable_tts|>": 165143,
        "<|start_content|>": 165146,
        "<|end_semantic_token|>": 165157,
    }
    assert {token: tokenizer.token_to_id(token) for token in published_ids} == published_ids


def test_another_seed_gives_other_values(tiny_checkpoint: Path, tmp_path: Path) -> None:
    other = write_synthetic_checkpoint(tmp_path / "other", "tiny", seed=1)
    name = "model.norm.weight"
    assert (Checkpoint.open(other).lm_file.get(name) != Checkpoint.open(tiny_checkpoint).lm_file.get(name)).all()


def test_a_finished_checkpoint_is_not_written_again(tmp_path: Path) -> None:
    directory = write_synthetic_checkpoint(tmp_path / "checkpoint", "tiny")
    written_at = (directory / "config.yaml").stat().st_mtime_ns
    assert write_synthetic_checkpoint(directory, "tiny") == directory
    assert (directory / "config.yaml").stat().st_mtime_ns == written_at


def test_an_interrupted_checkpoint_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.partial" / "BiCodec").mkdir(parents=True)
    Checkpoint.open(write_synthetic_checkpoint(tmp_path / "checkpoint", "tiny"))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("precious")
    with pytest.raises(FileExistsError, match="is not the synthetic checkpoint of size tiny, seed 0"):
        write_synthetic_checkpoint(tmp_path, "tiny")
    assert (tmp_path / "config.yaml").read_text() == "precious"


def test_the_files_say_that_they_make_noise(tiny_checkpoint: Path) -> None:
    assert "noise" in (tiny_checkpoint / synthetic.MARKER_FILE).read_text()
