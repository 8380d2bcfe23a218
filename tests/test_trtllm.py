"""The LM's TensorRT-LLM checkpoint: held to the documented format, and run after being folded back."""

import dataclasses
import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from build_engines import trtllm
from build_engines.checkpoint import Checkpoint, CheckpointError, TensorFile
from build_engines.qwen2_reference import Qwen2Reference
from build_engines.trtllm import bf16_bits, write_lm_checkpoint

# What a checkpoint of Qwen2 must have, by TensorRT-LLM's documentation and its QWenConfig.
LAYER_TENSORS = {
    "attention.qkv.weight": lambda c: [(c["num_attention_heads"] + 2 * c["num_key_value_heads"]) * c["head_size"], "h"],
    "attention.qkv.bias": lambda c: [(c["num_attention_heads"] + 2 * c["num_key_value_heads"]) * c["head_size"]],
    "attention.dense.weight": lambda c: ["h", c["num_attention_heads"] * c["head_size"]],
    "mlp.fc.weight": lambda c: [c["intermediate_size"], "h"],
    "mlp.gate.weight": lambda c: [c["intermediate_size"], "h"],
    "mlp.proj.weight": lambda c: ["h", c["intermediate_size"]],
    "input_layernorm.weight": lambda c: ["h"],
    "post_layernorm.weight": lambda c: ["h"],
}
OTHER_TENSORS = {
    "transformer.vocab_embedding.weight": lambda c: [c["vocab_size"], "h"],
    "transformer.ln_f.weight": lambda c: ["h"],
    "lm_head.weight": lambda c: [c["vocab_size"], "h"],
}


def documented_shapes(config: dict[str, Any]) -> dict[str, list[int]]:
    shapes = {name: shape(config) for name, shape in OTHER_TENSORS.items()}
    for index in range(config["num_hidden_layers"]):
        shapes |= {f"transformer.layers.{index}.{name}": shape(config) for name, shape in LAYER_TENSORS.items()}
    return {name: [config["hidden_size"] if size == "h" else size for size in shape] for name, shape in shapes.items()}


def fold_back(directory: Path) -> dict[str, torch.Tensor]:
    """The tensors of a TensorRT-LLM checkpoint under the names that `transformers` has for them."""
    config, tensors = json.loads((directory / "config.json").read_text()), load_file(directory / "rank0.safetensors")
    query = config["num_attention_heads"] * config["head_size"]
    key_value = config["num_key_value_heads"] * config["head_size"]
    folded = {
        "model.embed_tokens.weight": tensors["transformer.vocab_embedding.weight"],
        "model.norm.weight": tensors["transformer.ln_f.weight"],
        "lm_head.weight": tensors["lm_head.weight"],
    }
    for index in range(config["num_hidden_layers"]):
        of, own = f"transformer.layers.{index}", f"model.layers.{index}"
        for kind in ("weight", "bias"):
            parts = tensors[f"{of}.attention.qkv.{kind}"].split([query, key_value, key_value])
            for letter, part in zip("qkv", parts, strict=True):
                folded[f"{own}.self_attn.{letter}_proj.{kind}"] = part.clone()
        folded[f"{own}.self_attn.o_proj.weight"] = tensors[f"{of}.attention.dense.weight"]
        folded[f"{own}.mlp.gate_proj.weight"] = tensors[f"{of}.mlp.fc.weight"]
        folded[f"{own}.mlp.up_proj.weight"] = tensors[f"{of}.mlp.gate.weight"]
        folded[f"{own}.mlp.down_proj.weight"] = tensors[f"{of}.mlp.proj.weight"]
        folded[f"{own}.input_layernorm.weight"] = tensors[f"{of}.input_layernorm.weight"]
        folded[f"{own}.post_attention_layernorm.weight"] = tensors[f"{of}.post_layernorm.weight"]
    return folded


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.fixture(scope="module")
def converted(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lm_checkpoint(checkpoint, tmp_path_factory.mktemp("trtllm") / "checkpoint")


@pytest.mark.parametrize("name", ["tiny_checkpoint", "demo_checkpoint"])
def test_names_shapes_and_types_are_the_documented_ones(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    directory = write_lm_checkpoint(Checkpoint.open(request.getfixturevalue(name)), tmp_path)
    tensors = load_file(directory / "rank0.safetensors")
    config = json.loads((directory / "config.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == documented_shapes(config)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "rank0.safetensors"]


def test_the_published_size_has_the_documented_tensors() -> None:
    lm = {"num_hidden_layers": 24, "tie_word_embeddings": True}
    assert len(trtllm.tensor_sources(lm)) == 195


def test_the_config_says_what_the_checkpoint_says(converted: Path, checkpoint: Checkpoint) -> None:
    config, lm = json.loads((converted / "config.json").read_text()), checkpoint.lm
    assert config == {
        "architecture": "Qwen2ForCausalLM",
        "qwen_type": "qwen2",
        "dtype": "bfloat16",
        "logits_dtype": "float32",
        "hidden_act": "silu",
        "vocab_size": lm["vocab_size"],
        "hidden_size": lm["hidden_size"],
        "intermediate_size": lm["intermediate_size"],
        "num_hidden_layers": lm["num_hidden_layers"],
        "num_attention_heads": lm["num_attention_heads"],
        "num_key_value_heads": lm["num_key_value_heads"],
        "head_size": lm["hidden_size"] // lm["num_attention_heads"],
        "norm_epsilon": lm["rms_norm_eps"],
        "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": lm["max_position_embeddings"],
        "rotary_base": lm["rope_theta"],
        "rotary_scaling": None,
        "attn_bias": True,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "seq_length": 8192,
        "use_parallel_embedding": False,
        "embedding_sharding_dim": 0,
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1, "cp_size": 1},
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
    }


def test_int8_is_told_in_the_config_and_leaves_the_tensors_alone(
    converted: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    int8 = write_lm_checkpoint(checkpoint, tmp_path, "int8")
    config = json.loads((converted / "config.json").read_text())
    told = json.loads((int8 / "config.json").read_text())
    assert told.pop("quantization") == {"quant_algo": "W8A16", "kv_cache_quant_algo": None}
    assert told == {name: value for name, value in config.items() if name != "quantization"}
    assert (int8 / "rank0.safetensors").read_bytes() == (converted / "rank0.safetensors").read_bytes()


@pytest.mark.parametrize("prompt", ["clone_with_transcript", "control_female_high_low"])
def test_folded_back_it_says_what_the_checkpoint_says(
    converted: Path, checkpoint: Checkpoint, golden: dict[str, np.ndarray], tmp_path: Path, prompt: str
) -> None:
    path = tmp_path / "folded.safetensors"
    save_file(fold_back(converted), path)
    untied = {**checkpoint.lm, "tie_word_embeddings": False}  # the head that was written, not the embedding

    logits = Qwen2Reference(untied, TensorFile(path)).logits(golden[f"prompt.{prompt}"])[0]

    expected = golden[f"logits.{prompt}"]
    assert np.sqrt(np.mean((logits - expected) ** 2)) < 0.02 * expected.std()  # measured: 0.006 to 0.0095


def test_weights_that_bf16_can_hold_are_kept_exactly(
    converted: Path, checkpoint: Checkpoint, golden: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """The same logits, then: folded back once, converted again and folded back again."""
    folded = fold_back(converted)
    copy = Path(shutil.copytree(checkpoint.directory, tmp_path / "bf16"))
    save_file(
        {name: value for name, value in folded.items() if name != "lm_head.weight"}, copy / "LLM/model.safetensors"
    )
    bf16 = Checkpoint.open(copy)

    again = fold_back(write_lm_checkpoint(bf16, tmp_path / "again"))

    assert all(torch.equal(again[name], value) for name, value in folded.items())
    save_file(again, tmp_path / "again.safetensors")
    untied = {**checkpoint.lm, "tie_word_embeddings": False}
    ids = golden["prompt.clone"]
    np.testing.assert_array_equal(
        Qwen2Reference(untied, TensorFile(tmp_path / "again.safetensors")).logits(ids),
        Qwen2Reference(bf16.lm, bf16.lm_file).logits(ids),
    )


def test_a_head_of_its_own_is_kept(checkpoint: Checkpoint, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint.directory, tmp_path / "untied"))
    weights = load_file(copy / "LLM" / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(weights, copy / "LLM" / "model.safetensors")
    config = json.loads((copy / "LLM" / "config.json").read_text())
    (copy / "LLM" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))

    tensors = load_file(write_lm_checkpoint(Checkpoint.open(copy), tmp_path / "out") / "rank0.safetensors")

    assert torch.equal(tensors["lm_head.weight"], weights["lm_head.weight"].to(torch.bfloat16))
    assert torch.equal(tensors["transformer.vocab_embedding.weight"].flip(0), tensors["lm_head.weight"])


def test_memory_does_not_grow_with_the_model(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny embedding alone has 3.5 MB; with blocks of 64 KB a tenth of it is enough."""
    monkeypatch.setattr(trtllm, "BLOCK_VALUES", 1 << 14)
    assert checkpoint.lm_file.path.stat().st_size > 3_500_000
    tracemalloc.start()
    try:
        write_lm_checkpoint(checkpoint, tmp_path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * 4 * (1 << 14)


@pytest.mark.parametrize(
    ("setting", "value"), [("rope_scaling", {"type": "yarn"}), ("use_sliding_window", True), ("hidden_act", "gelu")]
)
def test_what_the_engine_would_not_do_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, setting: str, value: object
) -> None:
    other = dataclasses.replace(checkpoint, lm={**checkpoint.lm, setting: value})
    with pytest.raises(CheckpointError, match=f"{setting} is .* supported"):
        write_lm_checkpoint(other, tmp_path)


def test_weights_that_are_not_finite_are_refused_by_name(checkpoint: Checkpoint, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint.directory, tmp_path / "damaged"))
    weights = load_file(copy / "LLM" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(weights, copy / "LLM" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.gate\.weight .* not finite"):
        write_lm_checkpoint(Checkpoint.open(copy), tmp_path / "out")


def test_rounding_equals_pytorchs() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 1 << 32, 100_000, dtype=np.uint32).view(np.float32)
    values = np.concatenate([values[np.isfinite(values)], np.array([1.00390625, 1.01171875, -0.0, 1e-45], np.float32)])
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(bf16_bits(values), expected)
