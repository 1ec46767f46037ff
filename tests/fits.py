"""A training small enough for tests, as functions of a module, because other processes run it too."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dgkit.errors import DgkitError, InputError
from dgkit.training.loop import checkpoint
from dgkit.training.loop.optimisation import Optimisation
from dgkit.training.loop.task import Tensors, TrainingTask
from dgkit.training.loop.trainer import fit

SETTINGS: dict[str, Any] = {"steps": 8, "batch": 4, "lr": 1e-2, "warmup": 2, "checkpoint_every": 3, "log_every": 1}


class Toy(TrainingTask):
    """Learns the sum of three numbers; ``dropout`` makes it depend on torch's generator too."""

    name = "toy"

    def __init__(self, dropout: float = 0.0, nan_at: int | None = None, fail_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))
        self.identity: Mapping[str, Any] = {"seed": 0, "sides": (1, 2)}
        self.nan_at, self.fail_at = nan_at, fail_at
        self.seen: list[dict[str, Tensor]] = []

    def sample(self, index: int) -> Tensors:
        if index == self.fail_at:
            raise InputError(f"picture {index} is damaged", "remove it")
        x = torch.from_numpy(np.random.default_rng([0, index]).normal(size=3).astype(np.float32))
        return {"x": x * float("nan") if index == self.nan_at else x, "y": x.sum(0, keepdim=True)}

    def loss(self, module: nn.Module, batch: Tensors) -> Tensor:
        return (module(batch["x"]).float() - batch["y"]).square().mean()

    def describe(self, index: int) -> str:
        return f"picture_{index}.png"

    def validate(self, module: nn.Module, step: int, folder: Path) -> Mapping[str, float | np.ndarray]:
        assert not module.training
        self.seen.append({name: value.clone() for name, value in module.state_dict().items()})
        torch.rand(3)  # a validation may use torch's generator
        picture = np.full((4, 6, 3), step, np.uint8)
        return {"size": float(sum(p.abs().sum() for p in module.parameters())), "look/day": picture}


def toy_fit(folder: Path, toy: Toy | None = None, **settings: Any) -> Toy:
    """Train a toy in ``folder`` and return it."""
    toy = toy or Toy()
    fit(toy, Optimisation(**SETTINGS | settings), folder)
    return toy


def in_process(
    folder: Path, environment: Mapping[str, str], settings: Mapping[str, Any], nan_at: int | None = None
) -> None:
    """Train as the whole of a process; several form a group if the environment says so.

    An error is written to ``error_RANK.txt`` in ``folder``.
    """
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        toy_fit(folder, Toy(nan_at=nan_at), **settings)
    except DgkitError as error:
        (folder / f"error_{os.environ['RANK']}.txt").write_text(error.message)


def killed_after(folder: Path, step: int, settings: Mapping[str, Any]) -> None:
    """Train, and kill the process after ``step`` steps."""
    torch.set_num_threads(1)

    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    fit(Toy(0.2), Optimisation(**SETTINGS | settings), folder, progress=progress)


def killed_at(folder: Path, operation: int, settings: Mapping[str, Any]) -> None:
    """Train, and kill the process at its file operation number ``operation`` (0, 1, ...).

    An operation is the moment before or after a rename, a removal or an fsync, or the middle of writing the weights.
    """
    torch.set_num_threads(1)
    left = [operation]

    def step() -> bool:
        left[0] -= 1
        return left[0] < 0

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> None:
            if step():
                os.kill(os.getpid(), signal.SIGKILL)
            function(*args, **kwargs)
            if step():
                os.kill(os.getpid(), signal.SIGKILL)

        return wrapper

    write = checkpoint.save_file

    def dying_write(tensors: dict[str, Tensor], path: Path) -> None:
        write(tensors, path)
        if step():
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("replace", "fsync", "unlink", "rmdir"):
        setattr(os, name, dying(getattr(os, name)))
    checkpoint.save_file = dying_write
    toy_fit(folder, Toy(0.2), **settings)
