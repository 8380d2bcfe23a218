"""The training loop that every part runs in: resumable at any time, and the same with and without interruption."""

import json
import logging
import math
import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from build_engines.demo_voice.settings import Budget, Settings

logger = logging.getLogger(__name__)

Losses = dict[str, torch.Tensor]

_WARM_UP_SHARE = 0.02
_MAX_GRADIENT_NORM = 1.0
_LOG_EVERY_STEPS = 50


class OtherSettings(Exception):
    """A saved state belongs to other settings: the message names the file to remove."""


@dataclass(frozen=True)
class Training:
    """What one part trains.

    Attributes:
        module: everything with a state, on its device, in the mode it is trained in.
        optimizers: of the module's parameters, with their highest learning rates.
        losses: of one step, drawn with the generator alone; "total" is the one to descend.
    """

    module: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    losses: Callable[[np.random.Generator], Losses]


def muon_and_adam(
    module: nn.Module, matrices: Sequence[nn.Parameter], learning_rate: float, adam_share: float, beta2: float
) -> list[torch.optim.Optimizer]:
    """Muon of a module's inner `matrices`, and of all else that is trained Adam, at a share of Muon's learning rate.

    Args:
        matrices: kernels of convolutions too; all their axes but the first are taken as one.
    """
    trained = (parameter for parameter in module.parameters() if parameter.requires_grad)
    others = [parameter for parameter in trained if all(parameter is not matrix for matrix in matrices)]
    flat = [matrix if matrix.ndim == 2 else _flattened(matrix) for matrix in matrices]
    return [
        torch.optim.Muon(flat, learning_rate, weight_decay=0.0),
        torch.optim.Adam(others, adam_share * learning_rate, betas=(0.9, beta2)),
    ]


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def in_bfloat16(device: torch.device) -> torch.autocast:
    """Where convolutions and products are computed in bfloat16."""
    return torch.autocast(device.type, torch.bfloat16)


def fuse(module: nn.Module, settings: Settings) -> None:
    """Have the arithmetic between a module's convolutions fused; where there is no C++ compiler it is only warned."""
    if settings.fuses:
        torch._dynamo.config.suppress_errors = True
        module.compile()


def is_trained(path: Path, settings: Settings) -> bool:
    """Whether the part whose state lies at `path` (its name is the part's) has made all its steps.

    Raises:
        OtherSettings: it was trained with other settings.
    """
    return _finished(path, settings) is not None


def trained_state(path: Path, settings: Settings) -> dict[str, torch.Tensor]:
    """The module's state of a trained part, on the CPU.

    Raises:
        FileNotFoundError: the part has not been trained to its end.
        OtherSettings: see `is_trained`.
    """
    state = _finished(path, settings)
    if state is None:
        raise FileNotFoundError(f"{path} is not trained to its end: run this part first")
    return state["module"]


def train(training: Training, path: Path, settings: Settings, max_steps: int | None = None) -> list[float]:
    """Train the part that `path` is named after to the end of its budget, and keep its state there.

    It begins with the state that is there. What happens in a step depends on the seed, the part's name and the step
    alone, and the state is replaced at once: a run that was killed goes on from its last state as if nothing had
    happened.

    Args:
        max_steps: stop after so many, as an interruption would; the state is saved.

    Returns:
        The total losses of all steps so far.

    Raises:
        OtherSettings: the state there is of other settings.
    """
    name, budget = path.stem, settings.budget(path.stem)
    step, history = 0, []
    highest = [[group["lr"] for group in optimizer.param_groups] for optimizer in training.optimizers]
    if path.exists():
        state = _load(path, settings)
        step, history = state["step"], state["history"]
        training.module.load_state_dict(state["module"])
        for optimizer, optimizer_state in zip(training.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        logger.info("%s: goes on at step %d of %d", name, step, budget.num_steps)
    last = budget.num_steps if max_steps is None else min(budget.num_steps, step + max_steps)
    began_at, first_step = time.monotonic(), step
    with tqdm(total=budget.num_steps, initial=step, desc=name, unit=" steps", mininterval=2) as progress:
        while step < last:
            key = [settings.seed, zlib.crc32(name.encode()), step]
            generator = np.random.default_rng(key)
            torch.manual_seed(int(generator.integers(2**63)))
            factor = _learning_rate_factor(step, budget)
            for optimizer, rates in zip(training.optimizers, highest, strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
            losses = training.losses(generator)
            losses["total"].backward()
            nn.utils.clip_grad_norm_(training.module.parameters(), _MAX_GRADIENT_NORM)
            for optimizer in training.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            step += 1
            history.append(float(losses["total"].detach()))
            progress.update()
            if step % _LOG_EVERY_STEPS == 0 or step == last:
                _log(name, step, budget.num_steps, losses, (time.monotonic() - began_at) / (step - first_step))
                progress.set_postfix(loss=f"{np.mean(history[-_LOG_EVERY_STEPS:]):.3f}")
            if step % budget.save_every == 0 or step == last:
                _save(training, path, settings, step, history)
    return history


def start_from(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Fill a module's parameters from another part's state, by name.

    Raises:
        KeyError: a name is missing there.
    """
    own = module.state_dict()
    module.load_state_dict({name: state[name] for name in own})


def _flattened(kernel: nn.Parameter) -> nn.Parameter:
    """The same memory as a matrix, which the kernel's gradient moves to: torch's Muon takes nothing else.

    So `train` does not clip it with the module's others.
    """
    matrix = nn.Parameter(kernel.detach().flatten(1))

    def move_gradient(kernel: torch.Tensor) -> None:
        assert kernel.grad is not None
        matrix.grad, kernel.grad = kernel.grad.flatten(1), None

    kernel.register_post_accumulate_grad_hook(move_gradient)
    return matrix


def _learning_rate_factor(step: int, budget: Budget) -> float:
    """A short linear warm-up, then half a cosine."""
    warm_up = max(1, round(_WARM_UP_SHARE * budget.num_steps))
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, budget.num_steps - warm_up)
    final = budget.final_learning_rate_share
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def _save(training: Training, path: Path, settings: Settings, step: int, history: list[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    state = {
        "settings": settings.of_part(path.stem),
        "step": step,
        "history": history,
        "module": training.module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in training.optimizers],
    }
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _finished(path: Path, settings: Settings) -> dict[str, Any] | None:
    """The state of a part that has made all its steps."""
    state = _load(path, settings) if path.exists() else None
    return state if state is not None and state["step"] == settings.budget(path.stem).num_steps else None


def _load(path: Path, settings: Settings) -> dict[str, Any]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["settings"] != settings.of_part(path.stem):
        raise OtherSettings(f"{path} was trained with other settings: remove it to train this part anew")
    return state


def _log(name: str, step: int, num_steps: int, losses: Losses, seconds_per_step: float) -> None:
    values = {key: round(float(value.detach()), 4) for key, value in losses.items()}
    logger.info("%s: step %d of %d, %.3f s a step, %s", name, step, num_steps, seconds_per_step, json.dumps(values))
