"""The model repository as committed and as it is copied for a checkpoint."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from build_engines.checkpoint import Checkpoint
from build_engines.profiles import PRECISIONS, open_profile
from build_engines.repository import MODEL_REPO_DIR, copy_models, model_facts
from build_engines.trtllm_engine import EngineSettings

MODELS = (
    "audio_tokenizer",
    "semantic_encoder",
    "spark_tts",
    "spark_tts_stream",
    "speaker_encoder",
    "speech_lm",
    "vocoder",
)


GPU_CONFIG = "configs/gpu.pbtxt"
# What TensorRT-LLM's backend has and the CPU engine has not, and what it calls for; everything else is the same.
ONLY_ON_GPU = {"speech_lm": {"embedding_bias"}}
DIFFERENT_BATCH_SIZES = {"speech_lm": (0, 1)}


def config(directory: Path, model: str, file: str = "config.pbtxt") -> ModelConfig:
    return text_format.Parse((directory / model / file).read_text(), ModelConfig())


def tensors(config: ModelConfig) -> dict[str, tuple[object, ...]]:
    """What a caller must know of each input and output."""
    described: dict[str, tuple[object, ...]] = {}
    for kind, entries in (("input", config.input), ("output", config.output)):
        for tensor in entries:
            is_optional = kind == "input" and tensor.optional
            described[tensor.name] = (kind, tensor.data_type, tuple(tensor.dims), is_optional)
    return described


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


@pytest.mark.parametrize("model", MODELS)
def test_both_profiles_of_a_model_take_and_give_the_same(model: str) -> None:
    cpu, gpu = config(MODEL_REPO_DIR, model), config(MODEL_REPO_DIR, model, GPU_CONFIG)
    only_on_gpu = ONLY_ON_GPU.get(model, set())
    assert tensors(gpu).keys() - tensors(cpu).keys() == only_on_gpu
    assert {name: value for name, value in tensors(gpu).items() if name not in only_on_gpu} == tensors(cpu)
    assert gpu.model_transaction_policy == cpu.model_transaction_policy
    same = (cpu.max_batch_size, cpu.max_batch_size)
    assert (cpu.max_batch_size, gpu.max_batch_size) == DIFFERENT_BATCH_SIZES.get(model, same)


@pytest.mark.parametrize("model", ["spark_tts", "spark_tts_stream", "audio_tokenizer"])
def test_the_pipeline_is_the_same_on_both_profiles(model: str) -> None:
    assert config(MODEL_REPO_DIR, model, GPU_CONFIG) == config(MODEL_REPO_DIR, model)


@pytest.mark.parametrize("model", MODELS)
def test_every_committed_gpu_config_is_complete_as_it_stands(model: str) -> None:
    text, committed = (MODEL_REPO_DIR / model / GPU_CONFIG).read_text(), config(MODEL_REPO_DIR, model, GPU_CONFIG)
    assert committed.name == model
    assert committed.backend == ("tensorrtllm" if model == "speech_lm" else "python")
    assert "max_batch_size:" in text and "${" not in text
    (group,) = committed.instance_group
    uses_plans = model in ("speaker_encoder", "semantic_encoder", "vocoder")
    assert (group.count, group.kind) == (1, group.KIND_GPU if uses_plans else group.KIND_CPU)
    assert ("engine" in committed.parameters) == uses_plans


def test_the_backend_of_tensorrt_llm_gets_every_parameter_that_it_cannot_do_without() -> None:
    """Those whose absence is an error in its source (1.x), and those that are not its defaults."""
    parameters = config(MODEL_REPO_DIR, "speech_lm", GPU_CONFIG).parameters
    assert {name: parameters[name].string_value for name in parameters} == {
        "gpt_model_path": "speech_lm/1/engine",
        "gpt_model_type": "inflight_fused_batching",
        "max_beam_width": "1",
        "decoding_mode": "top_k_top_p",
        "batch_scheduler_policy": "guaranteed_no_evict",
        "max_tokens_in_paged_kv_cache": str(EngineSettings().kv_cache_tokens),
        "kv_cache_free_gpu_mem_fraction": "0.5",
        "enable_kv_cache_reuse": "true",
        "enable_chunked_context": "true",
        "exclude_input_in_output": "true",
        "cancellation_check_period_ms": "100",
        "tokenizer_dir": "",
        "guided_decoding_backend": "",
        "xgrammar_tokenizer_info_path": "",
    }


def test_a_gpu_copy_has_its_own_configs_and_no_python_where_none_runs(tmp_path: Path) -> None:
    path = {"speech_lm": {"gpt_model_path": "/models/speech_lm/1/engine"}}
    copy_models(tmp_path, path, {"speech_lm": {"embedding_bias": 777}}, GPU_CONFIG)
    for model in MODELS:
        expected = config(MODEL_REPO_DIR, model, GPU_CONFIG)
        if model == "speech_lm":
            expected.parameters["gpt_model_path"].string_value = "/models/speech_lm/1/engine"
            next(tensor for tensor in expected.input if tensor.name == "embedding_bias").dims[:] = [777]
        assert config(tmp_path, model) == expected
        assert (tmp_path / model / "1" / "model.py").exists() == (model != "speech_lm")
        assert {path.name for path in (tmp_path / model).iterdir()} == {"1", "config.pbtxt"}


def test_an_unknown_precision_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="the gpu profile has the precisions bf16, int8, not f32"):
        open_profile("gpu", "f32")
    assert PRECISIONS["cpu"][0] == "int8" and PRECISIONS["gpu"][0] == "bf16"


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
    by_name = {tensor.name: tensor for tensor in (*whole.input, *whole.output)}
    for name, (dtype, dims) in published.items():
        data_type = by_name[name].DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name[dtype].number
        assert (by_name[name].data_type, list(by_name[name].dims)) == (data_type, dims)
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
