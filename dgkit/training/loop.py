"""One resumable training loop for every stage.

The loss of a step is a function of the step number alone (data order and noise come from generators seeded by
(seed, step)), so a checkpoint holds weights, moments and the step, and a resumed run repeats the sequence exactly.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dgkit.errors import DgkitError
from dgkit.files import atomic_path
from dgkit.training.recipe import Optimisation

LossAt = Callable[[int], Tensor]
Progress = Callable[[str, int, int, float], None]  # stage, steps done, steps in all, smoothed loss


def learning_rate(recipe: Optimisation, step: int) -> float:
    """Learning rate of ``step`` (0-based): linear warm-up, constant ``lr``, then a cosine down to ``lr * final_lr``.

    The rate before the decay does not depend on the number of steps, so a run may be made longer or shorter while it
    is still constant and equals a run that was planned so (Zhai et al. 2022, arXiv 2106.04560).
    """
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    decay = round(recipe.decay * recipe.steps)
    progress = max(0, step - (recipe.steps - decay)) / max(1, decay)
    return recipe.lr * (recipe.final_lr + (1 - recipe.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass
class State:
    """Everything a checkpoint holds: the trained module, its moving average, the optimizer and the steps done."""

    module: nn.Module
    average: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0

    def save(self, path: Path) -> None:
        with atomic_path(path) as temporary:
            torch.save(
                {
                    "step": self.step,
                    "module": self.module.state_dict(),
                    "average": self.average,
                    "optimizer": self.optimizer.state_dict(),
                },
                temporary,
            )

    def load(self, path: Path) -> None:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        self.module.load_state_dict(saved["module"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.average = saved["average"]
        self.step = int(saved["step"])


def adamw(module: nn.Module, recipe: Optimisation, faster: tuple[str, float] = ("", 1.0)) -> torch.optim.Optimizer:
    """Fused AdamW over the parameters that require gradients.

    ``faster`` = (substring of parameter names, factor on the learning rate), e.g. for a ControlNet's zero convolutions.
    """
    substring, factor = faster
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            scale = factor if substring and substring in name else 1.0
            groups.setdefault(scale, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": params, "lr": recipe.lr * scale, "scale": scale} for scale, params in sorted(groups.items())],
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def train(
    name: str,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_at: LossAt,
    recipe: Optimisation,
    folder: Path,
    progress: Progress | None = None,
    on_checkpoint: Callable[[int], dict[str, float]] | None = None,
) -> None:
    """Train ``module`` in place and leave its moving average in it.

    ``loss_at(step)`` returns a scalar. Checkpoints go to ``folder/checkpoint.pt``, one line per checkpoint to
    ``folder/log.csv`` (step, mean loss since the last line, learning rate, seconds a step, figures of
    ``on_checkpoint``). Raises DgkitError on a loss that is not finite, naming the step and the last good checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    state = State(module, {k: v.detach().clone() for k, v in module.state_dict().items()}, optimizer)
    if checkpoint.exists():
        state.load(checkpoint)
    losses: list[float] = []
    start = time.perf_counter()
    while state.step < recipe.steps:
        losses.append(_one_step(state, loss_at, recipe, checkpoint))
        if progress:
            progress(name, state.step, recipe.steps, sum(losses[-50:]) / len(losses[-50:]))
        if state.step % recipe.checkpoint_every == 0 or state.step == recipe.steps:
            figures = on_checkpoint(state.step) if on_checkpoint else {}
            seconds = (time.perf_counter() - start) / len(losses)
            lr = learning_rate(recipe, state.step - 1)
            row = {"step": state.step, "loss": sum(losses) / len(losses), "lr": lr, "seconds": seconds, **figures}
            _log(folder / "log.csv", row)
            state.save(checkpoint)
            losses, start = [], time.perf_counter()
    module.load_state_dict(state.average)


def _one_step(state: State, loss_at: LossAt, recipe: Optimisation, checkpoint: Path) -> float:
    lr = learning_rate(recipe, state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)
    loss = loss_at(state.step)
    if not torch.isfinite(loss):
        raise DgkitError(
            f"the loss became {loss.item()} at step {state.step}; the last good checkpoint is {checkpoint}",
            "run the same command with a lower learning rate, e.g. --set <stage>.lr=...",
        )
    loss.backward()
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, recipe.clip)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    _update_average(state, min(recipe.ema, (1 + state.step) / (10 + state.step)))
    return float(loss.detach())


@torch.no_grad()
def _update_average(state: State, decay: float) -> None:
    current = state.module.state_dict()
    names = [k for k, v in current.items() if v.dtype.is_floating_point]
    torch._foreach_lerp_([state.average[k] for k in names], [current[k] for k in names], 1 - decay)


def _log(path: Path, row: dict[str, float]) -> None:
    new = not path.exists()
    with open(path, "a", encoding="utf-8") as file:
        if new:
            file.write(",".join(row) + "\n")
        file.write(",".join(f"{value:.6g}" for value in row.values()) + "\n")
        file.flush()
        os.fsync(file.fileno())
