"""Qwen2 in NumPy float32, straight from the checkpoint: what the built LM engines are held to."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from build_engines.checkpoint import TensorFile


class Qwen2Reference:
    """The published architecture without a cache, a batch or any reduced precision.

    Weights are read when they are used, so that even the full size needs little more memory than its
    embedding.

    Args:
        config: the LM's config.json.
        weights: its safetensors, with the names of `transformers`' Qwen2ForCausalLM.
    """

    def __init__(self, config: Mapping[str, Any], weights: TensorFile):
        self._config = config
        self._weights = weights
        self._head_dim = head_dim(config)

    def logits(self, ids: Iterable[int], positions: slice = slice(-1, None)) -> np.ndarray:
        """Logits [position, token id] of one sequence after the chosen positions, the last one by default."""
        return self._hidden_states(np.asarray(ids, np.int64))[positions] @ self._weights.get(head_name(self._config)).T

    def greedy(self, ids: Iterable[int], num_new_tokens: int, allowed: Iterable[int]) -> list[int]:
        """The most likely continuation made of `allowed` ids alone."""
        sequence, allowed_ids = list(ids), np.fromiter(allowed, np.int64)
        prompt_length = len(sequence)
        for _ in range(num_new_tokens):
            sequence.append(int(allowed_ids[self.logits(sequence)[-1, allowed_ids].argmax()]))
        return sequence[prompt_length:]

    def _hidden_states(self, ids: np.ndarray) -> np.ndarray:
        """[position, hidden], after the final norm."""
        hidden = self._weights.get("model.embed_tokens.weight")[ids]
        cos, sin = rotary_table(self._config, len(ids))
        for layer in range(self._config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            hidden = hidden + self._attention(self._norm(hidden, prefix + "input_layernorm"), prefix, cos, sin)
            hidden = hidden + self._mlp(self._norm(hidden, prefix + "post_attention_layernorm"), prefix)
        return self._norm(hidden, "model.norm")

    def _attention(self, x: np.ndarray, prefix: str, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        def heads(name: str) -> np.ndarray:  # [head, position, head_dim]
            projected = self._linear(x, f"{prefix}self_attn.{name}_proj", bias=True)
            return projected.reshape(len(x), -1, self._head_dim).transpose(1, 0, 2)

        query, key, value = rotate(heads("q"), cos, sin), rotate(heads("k"), cos, sin), heads("v")
        queries_per_key = len(query) // len(key)
        key, value = np.repeat(key, queries_per_key, axis=0), np.repeat(value, queries_per_key, axis=0)
        scores = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(self._head_dim))
        scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ value
        return self._linear(mixed.transpose(1, 0, 2).reshape(len(x), -1), f"{prefix}self_attn.o_proj")

    def _mlp(self, x: np.ndarray, prefix: str) -> np.ndarray:
        gate = self._linear(x, f"{prefix}mlp.gate_proj")
        gated = gate / (1 + np.exp(-gate)) * self._linear(x, f"{prefix}mlp.up_proj")
        return self._linear(gated, f"{prefix}mlp.down_proj")

    def _linear(self, x: np.ndarray, name: str, bias: bool = False) -> np.ndarray:
        projected = x @ self._weights.get(f"{name}.weight").T
        return projected + self._weights.get(f"{name}.bias") if bias else projected

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        variance = np.mean(x * x, axis=-1, keepdims=True)
        epsilon = np.float32(self._config["rms_norm_eps"])
        return x / np.sqrt(variance + epsilon) * self._weights.get(f"{name}.weight")


def head_dim(config: Mapping[str, Any]) -> int:
    """Size of one attention head; config.json names it only where it is not hidden size / heads."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def head_name(config: Mapping[str, Any]) -> str:
    """The tensor that turns hidden states into logits."""
    return "model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"


def rotary_table(config: Mapping[str, Any], num_positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [position, head_dim] of the rotary position embedding, both halves alike."""
    size = head_dim(config)
    frequencies = config["rope_theta"] ** (-np.arange(0, size, 2) / size)
    angles = np.outer(np.arange(num_positions), np.concatenate([frequencies, frequencies]))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Turns each pair (i, i + half) of the last axis by its position's angle."""
    first, second = np.split(x, 2, axis=-1)
    return x * cos + np.concatenate([-second, first], axis=-1) * sin
