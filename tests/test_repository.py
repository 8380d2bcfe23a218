"""The model repository as committed and as it is copied for a checkpoint."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from build_engines.checkpoint import Checkpoint
from build_engines.repository import MODEL_REPO_DIR, copy_models, model_facts

MODELS = (
    "audio_tokenizer",
    "semantic_encoder",
    "spark_tts",
    "spark_tts_stream",
    "speaker_encoder",
    "speech_lm",
    "vocoder",
)


def config(directory: Path, model: str) -> ModelConfig:
    return text_format.Parse((directory / model / "config.pbtxt").read_text(), ModelConfig())


def test_the_repository_holds_the_models_and_nothing_else() -> None:
    """Triton takes every folder for a model."""
    assert sorted(path.name for path in MODEL_REPO_DIR.iterdir()) == sorted(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_every_committed_config_is_complete_as_it_stands(model: str) -> None:
    committed = config(MODEL_REPO_DIR, model)
    assert committed.name == model
    assert committed.backend == "python"
    assert "max_batch_size:" in (MODEL_REPO_DIR / model / "config.pbtxt").read_text()
    assert committed.input and committed.output
    assert [group.kind for group in committed.instance_group] == [ModelConfig().instance_group.add().KIND_CPU]


def test_both_public_models_take_and_give_the_same() -> None:
    whole, stream = config(MODEL_REPO_DIR, "spark_tts"), config(MODEL_REPO_DIR, "spark_tts_stream")
    assert whole.input == stream.input
    assert whole.output == stream.output
    assert whole.max_batch_size == stream.max_batch_size
    assert stream.model_transaction_policy.decoupled and not whole.model_transaction_policy.decoupled


def test_tensors_of_the_published_recipe_keep_their_types_and_shapes() -> None:
    published = {
        "reference_wav": ("TYPE_FP32", [-1]),
        "reference_wav_len": ("TYPE_INT32", [1]),
        "reference_text": ("TYPE_STRING", [1]),
        "target_text": ("TYPE_STRING", [1]),
        "waveform": ("TYPE_FP32", [-1]),
    }
    whole = config(MODEL_REPO_DIR, "spark_tts")
    tensors = {tensor.name: tensor for tensor in (*whole.input, *whole.output)}
    for name, (dtype, dims) in published.items():
        data_type = tensors[name].DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name[dtype].number
        assert (tensors[name].data_type, list(tensors[name].dims)) == (data_type, dims)
    assert [tensor.name for tensor in whole.input if not tensor.optional] == ["target_text"]


def test_a_copy_differs_in_the_parameters_that_were_set_alone(tmp_path: Path) -> None:
    copy_models(tmp_path, {"speech_lm": {"precision": "bf16"}})
    for model in MODELS:
        expected = config(MODEL_REPO_DIR, model)
        if model == "speech_lm":
            expected.parameters["precision"].string_value = "bf16"
        assert config(tmp_path, model) == expected
        code = Path(model, "1", "model.py")
        assert (tmp_path / code).read_text() == (MODEL_REPO_DIR / code).read_text()


def test_a_copy_keeps_a_batch_size_of_zero(tmp_path: Path) -> None:
    """Left out, Triton would choose one."""
    copy_models(tmp_path, {})
    assert "max_batch_size: 0" in (tmp_path / "speech_lm" / "config.pbtxt").read_text()


def test_an_unknown_parameter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="speech_lm has no parameter speed"):
        copy_models(tmp_path, {"speech_lm": {"speed": "9"}})


def test_facts_follow_the_checkpoint(tiny_checkpoint: Path) -> None:
    facts = model_facts(Checkpoint.open(tiny_checkpoint))
    assert (facts.sample_rate_hz, facts.samples_per_token, facts.tokens_per_s) == (16000, 320, 50)
    assert (facts.num_global_codes, facts.num_semantic_codes) == (4096, 8192)
    assert (facts.num_reference_samples, facts.receptive_field_tokens) == (96000, 40)
