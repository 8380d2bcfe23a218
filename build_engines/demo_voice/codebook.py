"""The directions that stand for the semantic codes, which no part trains."""

import functools

import torch
from torch.nn import functional

from build_engines.demo_voice.codes import NUM_CODES, SemanticCodes

_CODE_DIM = 8
_MIN_LAST_COORDINATE = 0.25  # used codes keep to one side, all unused ones point to the other
_NUM_SPREADING_STEPS = 300


def codebook(codes: SemanticCodes) -> torch.Tensor:
    """Directions [codes, 8]: those in use as far from each other as can be, all others out of the way."""
    directions = unused_direction().repeat(NUM_CODES, 1)
    directions[torch.from_numpy(codes.codes)] = _spread_directions(codes.num_classes)
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
