import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from build_engines.checkpoint import Checkpoint, CheckpointError
from build_engines.qwen2_graph import Precision, quantise_rows
from build_engines.qwen2_reference import Qwen2Reference
from build_engines.speech_lm import allowed_rows, build_openvino_lm, engine_logits, speech_grammar, verify_lm
from build_engines.synthetic import write_synthetic_checkpoint
from tritone.spark_tts.tokens import SpeechTokens
from tritone.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.fixture(scope="module")
def f32_engine(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_openvino_lm(checkpoint, tmp_path_factory.mktemp("lm") / "engine", "f32")


@pytest.mark.parametrize(
    "prompt", ["clone_with_transcript", "clone", "control_female_high_low", "control_male_vlow_vhigh"]
)
def test_allowed_logits_equal_the_published_ones_and_the_others_are_far_below(
    f32_engine: Path, checkpoint: Checkpoint, golden: dict[str, np.ndarray], prompt: str
) -> None:
    ids, expected = golden[f"prompt.{prompt}"].tolist(), golden[f"logits.{prompt}"]
    vocabulary = Vocabulary.load(f32_engine / "vocabulary.json")
    grammar = speech_grammar(SpeechTokens.from_file(checkpoint.tokenizer_path))
    allowed = allowed_rows(grammar, vocabulary, ids[-1:])[0]

    logits = engine_logits(f32_engine, ids, "f32")[-1]

    expected_rows = expected[vocabulary.id_of_row[: vocabulary.num_emittable]]
    assert np.abs(logits - expected_rows)[allowed].max() < 1e-3 * expected.std()
    assert logits[~allowed].max(initial=-np.inf) < expected.min() - 500


@pytest.mark.parametrize("precision", ["int8", "bf16", "f32"])
def test_every_precision_passes_its_checks(checkpoint: Checkpoint, tmp_path: Path, precision: Precision) -> None:
    engine = build_openvino_lm(checkpoint, tmp_path / "engine", precision)

    assert [str(check) for check in verify_lm(checkpoint, engine, precision) if not check.ok] == []


def test_the_engine_of_other_weights_fails_its_checks(f32_engine: Path, tmp_path: Path) -> None:
    other = Checkpoint.open(write_synthetic_checkpoint(tmp_path / "other", "tiny", seed=1))

    error, *_ = verify_lm(other, f32_engine, "f32")

    assert not error.ok


def test_a_head_of_its_own_is_used_where_embeddings_are_not_tied(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "untied"))
    weights = load_file(copy / "LLM" / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"][::-1].copy()
    save_file(weights, copy / "LLM" / "model.safetensors")
    config = json.loads((copy / "LLM" / "config.json").read_text())
    (copy / "LLM" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    untied = Checkpoint.open(copy)

    engine = build_openvino_lm(untied, tmp_path / "engine", "f32")

    vocabulary = Vocabulary.load(engine / "vocabulary.json")
    reference = Qwen2Reference(untied.lm, untied.lm_file).logits([5, 6, 7])[0]
    np.testing.assert_allclose(
        engine_logits(engine, [5, 6, 7], "f32")[-1],
        reference[vocabulary.id_of_row[: vocabulary.num_emittable]],
        atol=1e-3,
    )


def test_the_end_token_is_a_row_of_the_cut_head_in_both_configs(f32_engine: Path, checkpoint: Checkpoint) -> None:
    vocabulary = Vocabulary.load(f32_engine / "vocabulary.json")
    im_end = SpeechTokens.from_file(checkpoint.tokenizer_path).im_end

    for name in ("config.json", "generation_config.json"):
        row = json.loads((f32_engine / name).read_text())["eos_token_id"]
        assert row < vocabulary.num_emittable
        assert vocabulary.id_of_row[row] == im_end


def test_a_failed_build_leaves_the_finished_engine_alone(
    tiny_checkpoint: Path, f32_engine: Path, tmp_path: Path
) -> None:
    finished = Path(shutil.copytree(f32_engine, tmp_path / "engine"))
    damaged = Checkpoint.open(tiny_checkpoint)
    damaged.lm["num_hidden_layers"] = 4  # one more than there is

    with pytest.raises(CheckpointError, match=r"model\.layers\.3\."):
        build_openvino_lm(damaged, finished, "f32")

    assert (finished / "openvino_model.bin").stat().st_size == (f32_engine / "openvino_model.bin").stat().st_size


def test_quantised_rows_keep_zero_and_are_off_by_half_a_level_at_most() -> None:
    weight = np.random.default_rng(0).normal(0.3, 1, (50, 64)).astype(np.float32)
    weight[:, 7] = 0
    weight[3] = 0

    levels, scale, zero_point = quantise_rows(weight)

    restored = (levels.astype(np.float32) - zero_point) * scale
    assert (restored[:, 7] == 0).all()
    assert (restored[3] == 0).all()
    assert (np.abs(restored - weight) <= 0.51 * scale).all()
