"""Qwen2 in PyTorch, small enough to train on a CPU: with its attention open to supervision, and with a cache."""

import torch
from torch import nn
from torch.nn import functional

from build_engines.layout import Config
from build_engines.qwen2_reference import head_dim

Cache = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values [batch, 1 head, positions, head_dim] of each layer


class Qwen2(nn.Module):
    """Token ids [batch, positions] -> logits; names of attributes are those of the checkpoint behind "model."."""

    def __init__(self, config: Config, num_tokens: int) -> None:
        """`num_tokens` are the rows of the embedding, which is the head too."""
        super().__init__()
        self.embed_tokens = nn.Embedding(num_tokens, config["hidden_size"])
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])
        self.head_dim, self.theta = head_dim(config), config["rope_theta"]

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, observed_layers: tuple[int, ...] = ()
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """A whole sequence at once.

        Args:
            mask: bool [batch, positions, positions], true where the first may see the second.
            observed_layers: those whose first head's attention is wanted.

        Returns:
            Hidden states [batch, positions, hidden] after the final norm, and attention [batch, positions, positions]
            of each observed layer.
        """
        hidden = self.embed_tokens(ids)
        rotation = rotary(torch.arange(ids.shape[1], device=ids.device), self.head_dim, self.theta)
        observed = []
        for index, layer in enumerate(self.layers):
            hidden, attention, _cache = layer(hidden, rotation, mask.unsqueeze(1), None)
            if index in observed_layers:
                observed.append(attention[:, 0])
        return self.norm(hidden), observed

    def step(self, ids: torch.Tensor, cache: Cache | None) -> tuple[torch.Tensor, Cache]:
        """Go on from a cache (None: from the start) with ids [batch, new]: the last one's logits, and the cache."""
        past = cache[0][0].shape[2] if cache else 0
        positions = torch.arange(past, past + ids.shape[1], device=ids.device)
        mask = positions[:, None] >= torch.arange(past + ids.shape[1], device=ids.device)
        hidden, rotation = self.embed_tokens(ids), rotary(positions, self.head_dim, self.theta)
        new_cache: Cache = []
        for index, layer in enumerate(self.layers):
            hidden, _attention, entry = layer(hidden, rotation, mask, cache[index] if cache else None)
            new_cache.append(entry)
        return self.norm(hidden[:, -1]) @ self.embed_tokens.weight.T, new_cache


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
        self,
        hidden: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        past: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        mixed, attention, cache = self.self_attn(self.input_layernorm(hidden), rotation, mask, past)
        hidden = hidden + mixed
        return hidden + self.mlp(self.post_attention_layernorm(hidden)), attention, cache


class Attention(nn.Module):
    """Grouped queries with rotary positions; gives its weights and its keys and values too."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, size = config["hidden_size"], head_dim(config)
        self.num_heads, self.num_key_value_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.q_proj = nn.Linear(hidden, size * self.num_heads)
        self.k_proj = nn.Linear(hidden, size * self.num_key_value_heads)
        self.v_proj = nn.Linear(hidden, size * self.num_key_value_heads)
        self.o_proj = nn.Linear(size * self.num_heads, hidden, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        past: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        def heads(projected: torch.Tensor, count: int) -> torch.Tensor:
            return projected.unflatten(2, (count, -1)).transpose(1, 2)

        query = rotate(heads(self.q_proj(x), self.num_heads), rotation)
        key = rotate(heads(self.k_proj(x), self.num_key_value_heads), rotation)
        value = heads(self.v_proj(x), self.num_key_value_heads)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        group = self.num_heads // self.num_key_value_heads
        scores = query @ key.repeat_interleave(group, dim=1).transpose(2, 3) * query.shape[-1] ** -0.5
        attention = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
        mixed = (attention @ value.repeat_interleave(group, dim=1)).transpose(1, 2).flatten(2)
        return self.o_proj(mixed), attention, (key, value)


class FeedForward(nn.Module):
    """A linear layer gated by the SiLU of another, and one back."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


def rotary(positions: torch.Tensor, size: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [positions, head_dim], both halves alike."""
    frequencies = theta ** (-torch.arange(0, size, 2, device=positions.device, dtype=torch.float64) / size)
    angles = (positions[:, None] * frequencies).repeat(1, 2)
    return angles.cos().float(), angles.sin().float()


def rotate(x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn each pair (i, i + half) of the last axis by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return x * rotation[0] + torch.cat([-second, first], dim=-1) * rotation[1]
