"""The codebook of semantic tokens: a small space in which codes are told apart by their direction alone."""

import torch
from torch import nn
from torch.nn import functional

from build_engines.layout import Config


class SemanticCodebook(nn.Module):
    """Latents [batch, frames, input_dim] <-> semantic tokens [batch, frames]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.in_project = nn.Conv1d(config["input_dim"], config["codebook_dim"], kernel_size=1)
        self.out_project = nn.Conv1d(config["codebook_dim"], config["input_dim"], kernel_size=1)
        self.codebook = nn.Embedding(config["codebook_size"], config["codebook_dim"])

    def tokenize(self, latents: torch.Tensor) -> torch.Tensor:
        """The code of the nearest direction for each frame, int32 [batch, frames]."""
        directions = self.in_project(latents.transpose(1, 2)).transpose(1, 2)
        # A latent's own length scales all its products alike, so only the codes need unit length.
        similarities = torch.matmul(directions, functional.normalize(self.codebook.weight, dim=1).T)
        return similarities.argmax(dim=-1).to(torch.int32)

    def detokenize(self, tokens: torch.Tensor) -> torch.Tensor:
        """[batch, frames] -> code embeddings [batch, frames, input_dim]."""
        return self.out_project(self.codebook(tokens).transpose(1, 2)).transpose(1, 2)
