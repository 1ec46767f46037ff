"""AdamW and the learning rate schedules, from the settings of a stage.

The schedules are those of transformers (transformers/optimization.py), used as pure functions of the step: they have no
state to save or restore.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers import optimization

from dgkit.errors import MissingDependency, UsageError
from dgkit.optional import first_line
from dgkit.training.loop.optimisation import Optimisation


def build_optimizer(
    module: nn.Module, settings: Optimisation, parameter_scale: tuple[str, float] = ("", 1.0)
) -> torch.optim.Optimizer:
    """Return AdamW over the parameters of ``module`` that require gradients; fused where torch supports it.

    ``parameter_scale`` = (substring of parameter names, factor on the learning rate), such as for the zero convolutions
    of a ControlNet; each group carries its factor as ``scale``. Raises UsageError if no parameter requires gradients
    and MissingDependency for ``adamw8bit`` if bitsandbytes cannot be loaded.
    """
    groups = _groups(module, settings.lr, *parameter_scale)
    shared: dict[str, Any] = {
        "lr": settings.lr,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer == "adamw8bit":
        return _bitsandbytes().optim.AdamW8bit(groups, **shared)
    return torch.optim.AdamW(groups, fused=_can_fuse(groups), **shared)


def rate_at(settings: Optimisation) -> Callable[[int], float]:
    """Return a function of the 0-based step that gives the learning rate as a share of the peak.

    The constant part of ``wsd`` does not depend on ``steps``: a run whose ``steps`` change during that part equals one
    planned with the new number (Zhai et al. 2022, arXiv 2106.04560; Hu et al. 2024, arXiv 2404.06395).
    """
    # transformers attaches a schedule to an optimizer; only the function inside it is used.
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=settings.lr)
    warmup, steps = settings.warmup, settings.steps
    if settings.schedule == "constant":
        built = optimization.get_constant_schedule_with_warmup(optimizer, warmup)
    elif settings.schedule == "linear":
        end = settings.lr * settings.final_lr
        built = optimization.get_polynomial_decay_schedule_with_warmup(optimizer, warmup, steps, lr_end=end)
    elif settings.schedule == "cosine":
        share = settings.final_lr
        built = optimization.get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, steps, min_lr_rate=share)
    else:
        decay = round(settings.decay * steps)
        stable = max(0, steps - warmup - decay)
        built = optimization.get_wsd_schedule(
            optimizer, warmup, decay, num_stable_steps=stable, min_lr_ratio=settings.final_lr
        )
    function = built.lr_lambdas[0]
    return lambda step: float(function(step))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group to ``rate`` times its ``scale``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def _groups(module: nn.Module, lr: float, substring: str, factor: float) -> list[dict[str, Any]]:
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            scale = factor if substring and substring in name else 1.0
            groups.setdefault(scale, []).append(parameter)
    if not groups:
        raise UsageError("no parameter of the module requires gradients", "unfreeze the parameters to train")
    return [{"params": params, "lr": lr * scale, "scale": scale} for scale, params in sorted(groups.items())]


def _can_fuse(groups: list[dict[str, Any]]) -> bool:
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(p.device.type in ("cpu", "cuda") and p.dtype.is_floating_point for p in parameters)


def _bitsandbytes() -> ModuleType:
    try:
        return importlib.import_module("bitsandbytes")
    except (ImportError, RuntimeError) as error:
        raise MissingDependency(
            f"optimizer=adamw8bit needs the package bitsandbytes, which cannot be loaded: {first_line(error)}",
            "pip install bitsandbytes, or use optimizer=adamw",
        ) from error
