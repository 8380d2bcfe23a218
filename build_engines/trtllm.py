"""Spark-TTS's LM as a TensorRT-LLM checkpoint, written straight from the safetensors; needs no TensorRT-LLM.

A TensorRT-LLM checkpoint is a folder with `config.json` and, for one GPU, `rank0.safetensors`: the model's own weights
under other names, the three projections of attention joined. `build_engines.trtllm_engine` has `trtllm-build` make an
engine of it. The format is documented in TensorRT-LLM's "Checkpoint" chapter; names and settings of Qwen2 are those of
its QWenConfig and QWenForCausalLM, release 1.2.1.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from build_engines.checkpoint import LM_CONFIG_FILE, Checkpoint, CheckpointError
from build_engines.layout import lm_tensors
from build_engines.qwen2_reference import head_dim, head_name

Precision = Literal["bf16", "int8"]

CONFIG_NAME, WEIGHTS_NAME = "config.json", "rank0.safetensors"
# 4 MB of a tensor as float32 are in memory at a time, three times that while they are rounded (measured: 13 MB).
BLOCK_VALUES = 1 << 20
_BF16_BYTES = 2

# What else the published architecture could be told to do, and this conversion would leave out.
_REQUIRED_SETTINGS = {"model_type": "qwen2", "hidden_act": "silu", "rope_scaling": None, "use_sliding_window": False}


def write_lm_checkpoint(checkpoint: Checkpoint, output_dir: Path, precision: Precision = "bf16") -> Path:
    """Write the LM's TensorRT-LLM checkpoint into a folder, with 16 MB of memory whatever the model's size.

    Args:
        precision: of the engine that `trtllm-build` is to make of it. The tensors are bfloat16 with both: "int8" is
            told in the config alone, and has TensorRT-LLM itself quantise the layers' matrices when it loads them
            (one scale per output channel; embedding and head stay bfloat16). Its int8 layout depends on the GPU and
            is made by its own compiled code only, so nobody else can write it. It refuses int8 on GPUs of compute
            capability 10.x (B200 and the like).

    Returns:
        output_dir.

    Raises:
        CheckpointError: the LM does something that this conversion does not know, or a weight is not finite.
    """
    for setting, expected in _REQUIRED_SETTINGS.items():
        found = checkpoint.lm.get(setting, expected)
        if found != expected:
            raise CheckpointError(f"{LM_CONFIG_FILE}: {setting} is {found}, only {expected} is supported")
    output_dir.mkdir(parents=True, exist_ok=True)
    config = checkpoint_config(checkpoint.lm, precision)
    (output_dir / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
    _write_weights(checkpoint, output_dir / WEIGHTS_NAME)
    return output_dir


def checkpoint_config(lm: Mapping[str, Any], precision: Precision) -> dict[str, Any]:
    """The checkpoint's config.json for one GPU, from the LM's own."""
    return {
        "architecture": "Qwen2ForCausalLM",
        "dtype": "bfloat16",  # never float16: the published LM overflows in it
        "logits_dtype": "float32",
        "vocab_size": lm["vocab_size"],
        "hidden_size": lm["hidden_size"],
        "num_hidden_layers": lm["num_hidden_layers"],
        "num_attention_heads": lm["num_attention_heads"],
        "num_key_value_heads": lm["num_key_value_heads"],
        "head_size": head_dim(lm),
        "hidden_act": lm["hidden_act"],
        "intermediate_size": lm["intermediate_size"],
        "norm_epsilon": lm["rms_norm_eps"],
        "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": lm["max_position_embeddings"],
        "rotary_base": lm["rope_theta"],
        "rotary_scaling": None,
        "attn_bias": True,
        "mlp_bias": False,
        "qwen_type": "qwen2",
        "tie_word_embeddings": lm["tie_word_embeddings"],
        "seq_length": 8192,
        "use_parallel_embedding": False,
        "embedding_sharding_dim": 0,
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1, "cp_size": 1},
        "quantization": {"quant_algo": "W8A16" if precision == "int8" else None, "kv_cache_quant_algo": None},
    }


def tensor_sources(lm: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Each tensor of the TensorRT-LLM checkpoint, and the LM's tensors that it has one below the other."""
    sources: dict[str, tuple[str, ...]] = {"transformer.vocab_embedding.weight": ("model.embed_tokens.weight",)}
    for index in range(lm["num_hidden_layers"]):
        of, own = f"transformer.layers.{index}", f"model.layers.{index}"
        for kind in ("weight", "bias"):
            sources[f"{of}.attention.qkv.{kind}"] = tuple(f"{own}.self_attn.{part}_proj.{kind}" for part in "qkv")
        for name, source in (
            ("attention.dense", "self_attn.o_proj"),
            ("mlp.fc", "mlp.gate_proj"),  # TensorRT-LLM's "gate" is the one without the activation
            ("mlp.gate", "mlp.up_proj"),
            ("mlp.proj", "mlp.down_proj"),
            ("input_layernorm", "input_layernorm"),
            ("post_layernorm", "post_attention_layernorm"),
        ):
            sources[f"{of}.{name}.weight"] = (f"{own}.{source}.weight",)
    sources["transformer.ln_f.weight"] = ("model.norm.weight",)
    # written out also where it is the embedding's: tensors of a safetensors file share nothing
    sources["lm_head.weight"] = (head_name(lm),)
    return sources


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """float32 rounded to bfloat16, to even at a tie, as its bits: uint16 of the same shape. Finite values only."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _write_weights(checkpoint: Checkpoint, path: Path) -> None:
    """Write the header, then block after block of one tensor after the other, in the header's order."""
    sources, source_shapes = tensor_sources(checkpoint.lm), lm_tensors(checkpoint.lm)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, parts in sources.items():
        num_rows = sum(source_shapes[part][0] for part in parts)
        shape = [num_rows, *source_shapes[parts[0]][1:]]
        begin, end = end, end + math.prod(shape) * _BF16_BYTES
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    header_bytes = json.dumps(header, separators=(",", ":")).encode()
    header_bytes += b" " * (-len(header_bytes) % 8)
    with path.open("wb") as file:
        file.write(len(header_bytes).to_bytes(8, "little"))
        file.write(header_bytes)
        for name, parts in sources.items():
            for block in _blocks(checkpoint, parts):
                if not np.isfinite(block).all():
                    raise CheckpointError(f"{checkpoint.lm_file.path}: {name} would hold values that are not finite")
                file.write(bf16_bits(block).tobytes())


def _blocks(checkpoint: Checkpoint, parts: tuple[str, ...]) -> Iterator[np.ndarray]:
    for part in parts:
        yield from checkpoint.lm_file.row_blocks(part, BLOCK_VALUES)
