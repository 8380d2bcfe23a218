"""Loading a network's weights.

The networks' attributes bear the checkpoint's names, so a module's state and its part of the file correspond name for
name. Two things differ: weight norm is folded into plain weights, and what only training used is left in the file.
"""

import torch
from torch import nn

from build_engines.checkpoint import TensorFile


def load_weights(module: nn.Module, file: TensorFile, prefix: str) -> None:
    """Fill `module` with the tensors under `prefix` in `file`.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    names = set(file.names())
    for name, parameter in module.state_dict().items():
        if name.endswith(".num_batches_tracked"):  # counts training steps
            continue
        path, shape = f"{prefix}.{name}", tuple(parameter.shape)
        if f"{path}_g" in names:
            lengths, directions = file.get(f"{path}_g"), file.get(f"{path}_v", shape)
            parameter.copy_(fold_weight_norm(torch.from_numpy(lengths), torch.from_numpy(directions)))
        else:
            parameter.copy_(torch.from_numpy(file.get(path, shape)))


def fold_weight_norm(lengths: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """The weight that weight norm stands for: `directions` scaled to `lengths`, which has size 1 where it is shared."""
    shared_axes = [axis for axis, size in enumerate(lengths.shape) if size == 1]
    return directions * (lengths / torch.linalg.vector_norm(directions, dim=shared_axes, keepdim=True))
