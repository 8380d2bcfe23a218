"""Qwen2 in PyTorch, small enough to train on a CPU: with its attention open to supervision, and with a cache."""

import torch
from torch import nn
from torch.nn import functional

from build_engines.layout import Config
from build_engines.qwen2_reference import head_dim

Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # queries, keys and values, each [heads, positions, head_dim]
Past = tuple[torch.Tensor, torch.Tensor] | None  # keys and values
Cache = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values of each layer

OBSERVED_HEADS = 2


class Qwen2(nn.Module):
    """Token ids to hidden states and logits; names of attributes are those of the checkpoint behind "model."."""

    def __init__(self, config: Config, num_tokens: int) -> None:
        """`num_tokens` are the rows of the embedding, which is the head too."""
        super().__init__()
        self.embed_tokens = nn.Embedding(num_tokens, config["hidden_size"])
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])
        self.head_dim, self.theta = head_dim(config), config["rope_theta"]

    def forward(
        self, ids: torch.Tensor, lengths: list[int], observed_layers: tuple[int, ...] = ()
    ) -> tuple[torch.Tensor, list[list[torch.Tensor]], torch.Tensor]:
        """Sequences one after another, none of which sees another: nothing is spent on filling rows.

        Args:
            ids: [positions] of all sequences.
            lengths: of each sequence.
            observed_layers: those whose first heads' attention is wanted.

        Returns:
            Hidden states [positions, hidden] after the final norm; for each observed layer the attention
            [OBSERVED_HEADS, length, length] within each sequence; and what the last of them reads [positions, hidden].
        """
        hidden = self.embed_tokens(ids)
        positions = torch.cat([torch.arange(length, device=ids.device) for length in lengths])
        rotation = rotary(positions, self.head_dim, self.theta)
        observed, last_read = [], hidden
        for index, layer in enumerate(self.layers):
            hidden, read, (query, key, _value) = layer(hidden, rotation, lengths, None)
            if index in observed_layers:
                last_read = read
                queries, keys = query[:OBSERVED_HEADS].split(lengths, dim=1), key[0].split(lengths)
                observed.append([_attention(*pair) for pair in zip(queries, keys, strict=True)])
        return self.norm(hidden), observed, last_read

    def step(self, ids: torch.Tensor, cache: Cache | None) -> tuple[torch.Tensor, Cache]:
        """Go on from a cache (None: from the start) with ids [new]: the last one's logits, and the cache."""
        past = cache[0][0].shape[1] if cache else 0
        positions = torch.arange(past, past + len(ids), device=ids.device)
        hidden, rotation = self.embed_tokens(ids), rotary(positions, self.head_dim, self.theta)
        new_cache: Cache = []
        for index, layer in enumerate(self.layers):
            hidden, _read, (_query, key, value) = layer(hidden, rotation, [len(ids)], cache[index] if cache else None)
            new_cache.append((key, value))
        return self.norm(hidden[-1]) @ self.embed_tokens.weight.T, new_cache


class Layer(nn.Module):
    """Attention and a gated feed-forward network, each behind a norm and added to its input."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, eps = config["hidden_size"], config["rms_norm_eps"]
        self.input_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.mlp = FeedForward(hidden, config["intermediate_size"])

    def forward(
        self, hidden: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], lengths: list[int], past: Past
    ) -> tuple[torch.Tensor, torch.Tensor, Heads]:
        """The next hidden states, what the attention reads of the given ones, and its heads."""
        read = self.input_layernorm(hidden)
        mixed, heads = self.self_attn(read, rotation, lengths, past)
        hidden = hidden + mixed
        return hidden + self.mlp(self.post_attention_layernorm(hidden)), read, heads


class Attention(nn.Module):
    """Grouped queries with rotary positions; gives its queries, keys and values too."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, size = config["hidden_size"], head_dim(config)
        self.num_heads, self.num_key_value_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.q_proj = nn.Linear(hidden, size * self.num_heads)
        self.k_proj = nn.Linear(hidden, size * self.num_key_value_heads)
        self.v_proj = nn.Linear(hidden, size * self.num_key_value_heads)
        self.o_proj = nn.Linear(size * self.num_heads, hidden, bias=False)

    def forward(
        self, x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], lengths: list[int], past: Past
    ) -> tuple[torch.Tensor, Heads]:
        """`past` is what came before the only sequence."""

        def heads(projected: torch.Tensor, count: int) -> torch.Tensor:
            return projected.float().unflatten(1, (count, -1)).transpose(0, 1)

        query = rotate(heads(self.q_proj(x), self.num_heads), rotation)
        key = rotate(heads(self.k_proj(x), self.num_key_value_heads), rotation)
        value = heads(self.v_proj(x), self.num_key_value_heads)
        key_lengths = lengths
        if past is not None:
            key, value = torch.cat([past[0], key], dim=1), torch.cat([past[1], value], dim=1)
            key_lengths = [key.shape[1]]
        group = self.num_heads // self.num_key_value_heads
        keys, values = (tensor.repeat_interleave(group, dim=0).split(key_lengths, dim=1) for tensor in (key, value))
        sequences = zip(query.split(lengths, dim=1), keys, values, strict=True)
        with torch.autocast(x.device.type, enabled=False):  # on a CPU, in bfloat16 its gradients take longer
            mixed = torch.cat([_attend(*sequence) for sequence in sequences], dim=1)
        return self.o_proj(mixed.transpose(0, 1).flatten(1)), (query, key, value)


class FeedForward(nn.Module):
    """A linear layer gated by the SiLU of another, and one back."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Each [heads, positions, head_dim]; queries are of the last positions, and see none behind."""
    num_queries, num_keys = query.shape[1], key.shape[1]
    is_whole = num_queries == num_keys
    mask = None if is_whole else torch.ones(num_queries, num_keys, dtype=torch.bool, device=key.device)
    mixed = functional.scaled_dot_product_attention(
        query[None],
        key[None],
        value[None],
        attn_mask=None if mask is None else mask.tril(num_keys - num_queries),
        is_causal=is_whole,
    )
    return mixed[0]


def _attention(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The weights [heads, positions, positions] of heads that share a key [positions, head_dim], one whole sequence."""
    with torch.autocast(query.device.type, enabled=False):
        scores = query @ key.T * query.shape[-1] ** -0.5
        is_ahead = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
        return scores.masked_fill(is_ahead, float("-inf")).softmax(dim=-1)


def rotary(positions: torch.Tensor, size: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [positions, head_dim], both halves alike."""
    frequencies = theta ** (-torch.arange(0, size, 2, device=positions.device, dtype=torch.float64) / size)
    angles = (positions[:, None] * frequencies).repeat(1, 2)
    return angles.cos().float(), angles.sin().float()


def rotate(x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn each pair (i, i + half) of the last axis by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return x * rotation[0] + torch.cat([-second, first], dim=-1) * rotation[1]
