"""Multi-head attention in plain operations, which every exporter and engine knows."""

import torch


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int) -> torch.Tensor:
    """[batch, queries, channels] attending to [batch, keys, channels] -> [batch, queries, channels], no mask."""
    head_dim = query.shape[2] // num_heads

    def split_heads(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], x.shape[1], num_heads, head_dim).transpose(1, 2)

    scores = torch.matmul(split_heads(query) * head_dim**-0.5, split_heads(key).transpose(2, 3))
    attended = torch.matmul(scores.softmax(dim=-1), split_heads(value))
    return attended.transpose(1, 2).flatten(2)
