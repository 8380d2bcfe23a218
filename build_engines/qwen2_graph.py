"""Qwen2 as an OpenVINO graph for GenAI, with a cut head and a grammar, written straight from the weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from tqdm import tqdm

from build_engines.checkpoint import Checkpoint
from build_engines.qwen2_reference import head_dim, head_name, rotary_table
from tritone.speech_lm import ACTIVATION_GROUP
from tritone.vocabulary import Vocabulary

Precision = Literal["int8", "bf16", "f32"]

MASKED_LOGIT = -1000.0  # at most; far enough that softmax gives exactly zero in float32 at any useful temperature


@dataclass(frozen=True)
class Rule:
    """After any token of `after`, only tokens of `allowed` may be emitted."""

    after: range
    allowed: tuple[range, ...]


class Qwen2Graph:
    """Writes Qwen2 as the OpenVINO graph that GenAI turns into paged attention.

    GenAI finds its way by structure and names: a state per layer for keys and for values that is gathered
    by beam_idx and concatenated with the new ones, scaled_dot_product_attention, and the head's MatMul as
    the last one.
    """

    def __init__(self, checkpoint: Checkpoint, vocabulary: Vocabulary, grammar: list[Rule], precision: Precision):
        self._config = checkpoint.lm
        self._weights = checkpoint.lm_file
        self._vocabulary = vocabulary
        self._grammar = grammar
        self._precision = precision
        self._head_dim = head_dim(checkpoint.lm)
        self._num_heads: int = checkpoint.lm["num_attention_heads"]
        self._num_kv_heads: int = checkpoint.lm["num_key_value_heads"]
        self._states: list[ov.op.util.Variable] = []
        self._assigns: list[ov.Node] = []

    def model(self) -> ov.Model:
        """The whole graph.

        input_ids, attention_mask, position_ids I64 [batch, length], beam_idx I32 [batch]
        -> logits F32 [batch, length, emittable row].
        """
        self._input_ids = _parameter("input_ids", [-1, -1], ov.Type.i64)
        self._attention_mask = _parameter("attention_mask", [-1, -1], ov.Type.i64)
        self._position_ids = _parameter("position_ids", [-1, -1], ov.Type.i64)
        self._beam_idx = _parameter("beam_idx", [-1], ov.Type.i32)
        self._cos, self._sin = self._rotary()
        self._mask = self._causal_mask()

        hidden = self._embedding()
        for layer in tqdm(range(self._config["num_hidden_layers"]), "speech_lm layers", unit="layer", disable=None):
            prefix = f"model.layers.{layer}."
            normalised = self._norm(hidden, prefix + "input_layernorm")
            hidden = ops.add(hidden, self._attention(normalised, prefix, layer))
            normalised = self._norm(hidden, prefix + "post_attention_layernorm")
            hidden = ops.add(hidden, self._mlp(normalised, prefix))
        logits = self._head(self._norm(hidden, "model.norm"))

        result = ops.result(logits, name="logits")
        result.get_output_tensor(0).set_names({"logits"})
        parameters = [self._input_ids, self._attention_mask, self._position_ids, self._beam_idx]
        return ov.Model([result], self._assigns, parameters, self._states, "speech_lm")

    def _embedding(self) -> ov.Node:
        """[batch, length, hidden], its rows in the vocabulary's order."""
        rows = self._weights.get("model.embed_tokens.weight")[self._vocabulary.id_of_row]
        return ops.gather(self._weight(rows), self._input_ids, _integer(0))

    def _rotary(self) -> tuple[ov.Node, ov.Node]:
        """Cosines and sines [batch, 1, length, head_dim], from tables: bf16 angles would lose the position."""
        tables = rotary_table(self._config, self._config["max_position_embeddings"])
        gathered = [ops.gather(ops.constant(table), self._position_ids, _integer(0)) for table in tables]
        cos, sin = (ops.unsqueeze(table, _integer(1)) for table in gathered)
        return cos, sin

    def _causal_mask(self) -> ov.Node:
        """[batch, 1, length, past + length]: 0 where a query may look, else minus infinity."""
        total_length = ops.gather(ops.shape_of(self._attention_mask), _integer(1), _integer(0))
        key_positions = ops.range(_integer(0), total_length, _integer(1), output_type="i64")
        not_later = ops.less_equal(key_positions, ops.unsqueeze(self._position_ids, _integer(2)))
        present = ops.unsqueeze(ops.convert(self._attention_mask, "boolean"), _integer(1))
        visible = ops.unsqueeze(ops.logical_and(not_later, present), _integer(1))
        return ops.select(visible, _float(0.0), _float(-np.inf))

    def _attention(self, x: ov.Node, prefix: str, layer: int) -> ov.Node:
        def heads(name: str, count: int) -> ov.Node:  # [batch, head, length, head_dim]
            projected = self._linear(x, f"{prefix}self_attn.{name}_proj", bias=True)
            split = ops.reshape(projected, _integers(0, 0, count, self._head_dim), special_zero=True)
            return ops.transpose(split, _integers(0, 2, 1, 3))

        query = self._rotate(heads("q", self._num_heads))
        key = self._cached(self._rotate(heads("k", self._num_kv_heads)), layer, "key")
        value = self._cached(heads("v", self._num_kv_heads), layer, "value")
        mixed = ops.scaled_dot_product_attention(query, self._per_query(key), self._per_query(value), self._mask)
        joined = ops.reshape(
            ops.transpose(mixed, _integers(0, 2, 1, 3)),
            _integers(0, 0, self._num_heads * self._head_dim),
            special_zero=True,
        )
        return self._linear(joined, f"{prefix}self_attn.o_proj")

    def _rotate(self, x: ov.Node) -> ov.Node:
        half, end, last = _integers(self._head_dim // 2), _integers(self._head_dim), _integers(3)
        first = ops.slice(x, _integers(0), half, _integers(1), last)
        second = ops.slice(x, half, end, _integers(1), last)
        turned = ops.concat([ops.multiply(second, _float(-1.0)), first], axis=-1)
        return ops.add(ops.multiply(x, self._cos), ops.multiply(turned, self._sin))

    def _cached(self, new: ov.Node, layer: int, kind: str) -> ov.Node:
        """The past of one state, by beam, and `new` behind it: [batch, kv head, past + length, head_dim]."""
        info = ov.op.util.VariableInfo()
        info.data_shape = ov.PartialShape([-1, self._num_kv_heads, -1, self._head_dim])
        info.data_type = ov.Type.f32
        info.variable_id = f"past_key_values.{layer}.keypresent.{layer}.{kind}"
        state = ov.op.util.Variable(info)
        batch = ops.gather(ops.shape_of(self._input_ids), _integers(0), _integer(0))
        empty_shape = ops.concat([batch, _integers(self._num_kv_heads, 0, self._head_dim)], axis=0)
        past = ops.read_value(ops.broadcast(_float(0.0), empty_shape), state)
        present = ops.concat([ops.gather(past, self._beam_idx, _integer(0)), new], axis=2)
        self._states.append(state)
        self._assigns.append(ops.assign(present, state))
        return present

    def _per_query(self, x: ov.Node) -> ov.Node:
        """Each key/value head repeated for the query heads that share it."""
        repeats = self._num_heads // self._num_kv_heads
        repeated = ops.broadcast(
            ops.unsqueeze(x, _integer(2)), _integers(1, 1, repeats, 1, 1), broadcast_spec="BIDIRECTIONAL"
        )
        return ops.reshape(repeated, _integers(0, self._num_heads, -1, self._head_dim), special_zero=True)

    def _mlp(self, x: ov.Node, prefix: str) -> ov.Node:
        gate = ops.swish(self._linear(x, f"{prefix}mlp.gate_proj"))
        gated = ops.multiply(gate, self._linear(x, f"{prefix}mlp.up_proj"))
        return self._linear(gated, f"{prefix}mlp.down_proj")

    def _norm(self, x: ov.Node, name: str) -> ov.Node:
        variance = ops.reduce_mean(ops.power(x, _float(2.0)), _integers(-1), keep_dims=True)
        inverse = ops.divide(_float(1.0), ops.sqrt(ops.add(variance, _float(self._config["rms_norm_eps"]))))
        return ops.multiply(ops.constant(self._weights.get(f"{name}.weight")), ops.multiply(x, inverse))

    def _head(self, hidden: ov.Node) -> ov.Node:
        """Logits of the emittable rows, masked by the grammar.

        GenAI keeps only the last position of each sequence before the last MatMul, so a mask added behind
        that MatMul would have other positions than the logits. Instead the class of each input token, as a
        one-hot row, is joined to the hidden state, and the head's weights have columns for it: 0 where the
        class allows the row, and minus the row's largest weight where it does not, which leaves the row's
        quantisation as it is. Allowed logits are unchanged.
        """
        weight = self._weights.get(head_name(self._config))[
            self._vocabulary.id_of_row[: self._vocabulary.num_emittable]
        ]
        largest = np.maximum(np.abs(weight).max(axis=1), np.finfo(np.float32).eps)
        # a power of two, so that reduced precisions hold it exactly
        one = np.exp2(np.ceil(np.log2(-MASKED_LOGIT / largest.min())))

        num_classes = len(self._grammar) + 1  # class 0: any token that the grammar does not name
        # the classes are a quantisation group of their own: their large value would cost the others their resolution
        padding = -weight.shape[1] % ACTIVATION_GROUP
        width = padding + -(-num_classes // ACTIVATION_GROUP) * ACTIVATION_GROUP
        class_of_row = np.zeros(self._vocabulary.size, np.int64)
        mask = np.zeros((len(weight), width), np.float32)
        for number, rule in enumerate(self._grammar, start=1):
            class_of_row[self._vocabulary.row_of_id[rule.after]] = number
            mask[:, padding + number] = -largest
            for allowed in rule.allowed:
                mask[self._vocabulary.row_of_id[allowed], padding + number] = 0
        one_hot = one * np.eye(num_classes, width, k=padding, dtype=np.float32)

        token_class = ops.gather(ops.constant(class_of_row), self._input_ids, _integer(0))
        columns = ops.gather(ops.constant(one_hot), token_class, _integer(0))
        joined = ops.concat([hidden, columns], axis=-1)
        return self._matmul(joined, np.concatenate([weight, mask], axis=1), "lm_head")

    def _linear(self, x: ov.Node, name: str, bias: bool = False) -> ov.Node:
        projected = self._matmul(x, self._weights.get(f"{name}.weight"), name)
        return ops.add(projected, ops.constant(self._weights.get(f"{name}.bias"))) if bias else projected

    def _matmul(self, x: ov.Node, weight: np.ndarray, name: str) -> ov.Node:
        product = ops.matmul(x, self._weight(weight), transpose_a=False, transpose_b=True)
        product.set_friendly_name(f"__module.{name}/MatMul")
        return product

    def _weight(self, weight: np.ndarray) -> ov.Node:
        """A matrix [row, column] in the stored precision, followed by what makes it float32 again."""
        if self._precision == "f32":
            return ops.constant(weight)
        if self._precision == "bf16":
            return ops.convert(ops.constant(weight, dtype=ov.Type.bf16), "f32")
        levels, scale, zero_point = quantise_rows(weight)
        centred = ops.subtract(ops.convert(ops.constant(levels), "f32"), ops.convert(ops.constant(zero_point), "f32"))
        return ops.multiply(centred, ops.constant(scale))


def quantise_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Asymmetric 8-bit quantisation with one scale per row; zero stays exactly zero.

    Args:
        weight: float32 [row, column].

    Returns:
        levels uint8 [row, column], scale float32 [row, 1], zero_point uint8 [row, 1];
        weight is about (levels - zero_point) * scale.
    """
    low = np.minimum(weight.min(axis=1, keepdims=True), 0)
    high = np.maximum(weight.max(axis=1, keepdims=True), 0)
    scale = np.maximum((high - low) / 255, np.finfo(np.float32).tiny)
    zero_point = np.rint(-low / scale).astype(np.uint8)
    levels = np.empty(weight.shape, np.uint8)
    for rows in _blocks(len(weight)):
        exact = weight[rows] / scale[rows] + zero_point[rows]
        levels[rows] = np.clip(np.rint(exact), 0, 255)
    return levels, scale, zero_point


def _blocks(num_rows: int, size: int = 4096) -> Iterator[slice]:
    """Slices that bound the temporaries of work on a large matrix."""
    for start in range(0, num_rows, size):
        yield slice(start, start + size)


def _parameter(name: str, shape: list[int], element_type: ov.Type) -> ov.Node:
    parameter = ops.parameter(ov.PartialShape(shape), element_type, name=name)
    parameter.get_output_tensor(0).set_names({name})
    return parameter


def _integer(value: int) -> ov.Node:
    return ops.constant(np.int64(value))


def _integers(*values: int) -> ov.Node:
    return ops.constant(np.array(values, np.int64))


def _float(value: float) -> ov.Node:
    return ops.constant(np.float32(value))
