"""The directions that stand for the semantic codes, which no part trains."""

import functools

import torch
from torch.nn import functional

from build_engines.demo_voice.codes import NUM_AGES, NUM_CODES, SemanticCodes

_CODE_DIM = 8
_AGES_SPREAD = 0.25  # from the middle age of a phoneme to the outer ones, along the first axis
_MIN_LAST_COORDINATE = 0.25  # used codes keep to one side, all unused ones point to the other
_NUM_SPREADING_STEPS = 300


def codebook(codes: SemanticCodes) -> torch.Tensor:
    """Directions [codes, 8]: the phonemes as far from each other as can be, unused codes out of the way.

    The ages of a phoneme lie side by side: with all classes far from each other, the prenet had to learn five hundred
    points of eight dimensions one by one, and was after 600 steps as far as it is with these after 270.
    """
    phonemes, ages = (torch.from_numpy(values) for values in codes.phonemes_and_ages)
    along_axis = torch.eye(_CODE_DIM)[0] * _AGES_SPREAD
    used = _spread_directions(codes.num_phonemes)[phonemes] + torch.outer(2 * ages / (NUM_AGES - 1) - 1, along_axis)
    directions = unused_direction().repeat(NUM_CODES, 1)
    directions[torch.from_numpy(codes.codes)] = functional.normalize(used, dim=1)
    return directions


def unused_direction() -> torch.Tensor:
    """Where the codes that are never used point: [8]."""
    return -torch.eye(_CODE_DIM)[-1]


@functools.cache
def _spread_directions(count: int) -> torch.Tensor:
    """`count` unit vectors [count, 8] on one side, moved away from their nearest neighbours; always the same ones."""
    points = torch.randn(count, _CODE_DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for step in range(_NUM_SPREADING_STEPS):
        points = _on_one_side(points)
        similarities = points @ points.T - 2 * torch.eye(count, dtype=torch.float64)
        pushes = torch.softmax(20 * similarities, dim=1) @ points
        points = points - 0.2 * (1 - step / _NUM_SPREADING_STEPS) * pushes
    return _on_one_side(points).float()


def _on_one_side(points: torch.Tensor) -> torch.Tensor:
    last = points[:, -1:].abs().maximum(_MIN_LAST_COORDINATE * points.norm(dim=1, keepdim=True))
    return functional.normalize(torch.cat([points[:, :-1], last], dim=1), dim=1)
