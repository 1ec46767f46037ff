"""Checkpoints of a training run: each is complete or absent, and the newest few are kept.

``folder/step_00000200/`` holds the trained weights (``model.safetensors``), their moving average
(``ema.safetensors``), the optimizer, the gradient scaler and the states of the random generators (as accelerate writes
them), and ``state.json``: the step, the settings and the state of the loss meter. It is written under a temporary
name, flushed to the disk and renamed; only then is the oldest one removed.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dgkit.errors import DgkitError, ModelError, OutputError, UsageError
from dgkit.files import output_error
from dgkit.optional import first_line
from dgkit.training.loop.optimisation import FREE_ON_RESUME

_FINISHED = re.compile(r"step_(\d{8})")
_TEMPORARY = re.compile(r"\.step_\d{8}\.(new|old)")
_FULL_BELOW = 1 << 20  # bytes free
_WEIGHTS, _AVERAGE, _STATE = "model.safetensors", "ema.safetensors", "state.json"


@dataclass
class Parts:
    """The objects that a checkpoint saves: accelerate's Accelerator, the unwrapped module and the moving average."""

    accelerator: Any
    module: nn.Module
    average: EMAModel | None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in ``folder``, oldest first."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if _FINISHED.fullmatch(path.name) and path.is_dir())


def remove_temporaries(folder: Path) -> None:
    """Remove checkpoints that a killed run left half-written or half-deleted."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path)


def save(folder: Path, parts: Parts, state: Mapping[str, Any], keep: int) -> None:
    """Write the checkpoint of step ``state["step"]``, then delete all but the newest ``keep``.

    Every process calls this; the main one writes. Raises OutputError if the disk is full or fails; earlier checkpoints
    remain intact.
    """
    accelerator = parts.accelerator
    name = f"step_{state['step']:08d}"
    temporary = folder / f".{name}.new"
    try:
        _write(temporary, parts, state)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _sync_folder(temporary)
            temporary.replace(folder / name)
            _sync(folder)
            for old in list_checkpoints(folder)[:-keep]:
                _remove(old)
    except (OSError, RuntimeError, SafetensorError) as error:
        failure = _write_error(folder, error)
        shutil.rmtree(temporary, ignore_errors=True)
        raise failure from error
    accelerator.wait_for_everyone()


def read_state(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint's ``state.json``. Raises ModelError if it cannot be read."""
    try:
        return dict(json.loads((path / _STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _read_error(path, error) from error


def check_settings(path: Path, state: Mapping[str, Any], wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UsageError if a run with the settings ``wanted`` must not resume from ``state``, read from ``path``.

    ``wanted`` has the groups "settings" (fields of the optimisation) and "identity" (values of the task).
    """
    for group, values in wanted.items():
        saved = state[group]
        for name, value in values.items():
            if name not in FREE_ON_RESUME and name in saved and saved[name] != value:
                raise UsageError(
                    f"{name}={value} differs from {name}={saved[name]}, which {path} was trained with; "
                    f"only these may change: {', '.join(sorted(FREE_ON_RESUME))}",
                    f"resume with {name}={saved[name]}, or choose another folder",
                )
    steps = wanted["settings"]["steps"]
    if steps < state["step"]:
        raise UsageError(
            f"steps={steps} is less than the {state['step']} steps already done in {path.parent}",
            f"use steps={state['step']} or more, or choose another folder",
        )


def load(path: Path, parts: Parts) -> None:
    """Load the checkpoint ``path`` into ``parts``. Raises ModelError if it is damaged or of another module."""
    try:
        _load_weights(path / _WEIGHTS, parts.module)
        if parts.average is not None:
            _load_average(path / _AVERAGE, parts.module, parts.average)
        handle = parts.accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())
        parts.accelerator.load_state(str(path))
        handle.remove()
    except DgkitError:
        raise
    except Exception as error:  # torch and safetensors raise many types for a damaged file
        raise _read_error(path, error) from error


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require gradients, by name, in the module's order."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Return trained parameters and persistent buffers; frozen weights are not part of a checkpoint."""
    state = module.state_dict()
    names = [*trained_parameters(module), *(name for name, _ in module.named_buffers() if name in state)]
    return {name: state[name].detach().contiguous() for name in names}


def _write(folder: Path, parts: Parts, state: Mapping[str, Any]) -> None:
    # accelerate names weights differently with several processes than with one and writes frozen ones too. The hook
    # removes the weights from what it saves; they are written below.
    handle = parts.accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
    parts.accelerator.save_state(str(folder))
    handle.remove()
    if not parts.accelerator.is_main_process:
        return
    save_file(_weights(parts.module), folder / _WEIGHTS)
    if parts.average is not None:
        shadow = zip(trained_parameters(parts.module), parts.average.shadow_params, strict=True)
        save_file({name: tensor.contiguous() for name, tensor in shadow}, folder / _AVERAGE)
    (folder / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")


@torch.no_grad()
def _load_weights(path: Path, module: nn.Module) -> None:
    saved = load_file(path)
    if {k: v.shape for k, v in _weights(module).items()} != {k: v.shape for k, v in saved.items()}:
        raise ModelError(
            f"the checkpoint {path.parent} belongs to a module with other parameters", "choose another output folder"
        )
    module.load_state_dict(saved, strict=False)


def _load_average(path: Path, module: nn.Module, average: EMAModel) -> None:
    saved = load_file(path)
    for name, tensor in zip(trained_parameters(module), average.shadow_params, strict=True):
        tensor.copy_(saved[name])


def _remove(path: Path) -> None:
    # Renamed first: an interrupted removal must not leave half a checkpoint under the name of a complete one.
    renamed = path.with_name(f".{path.name}.old")
    path.replace(renamed)
    shutil.rmtree(renamed)


def _sync_folder(folder: Path) -> None:
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_error(folder: Path, error: Exception) -> OutputError:
    found = list_checkpoints(folder)
    kept = f"the checkpoint {found[-1]} is intact" if found else "there is no earlier checkpoint"
    base = output_error(folder, _system_error(folder, error))
    return OutputError(f"{base.message}; {kept}", base.hint)


def _system_error(folder: Path, error: Exception) -> OSError:
    """Return the OSError behind ``error``; torch and safetensors only quote it in their messages."""
    if isinstance(error, OSError):
        return error
    if number := re.search(r"os error (\d+)", str(error)):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    if "inline_container" in str(error):  # raised by torch.save, without an error number
        full = shutil.disk_usage(folder).free < _FULL_BELOW
        return OSError(errno.ENOSPC, "") if full else OSError(errno.EIO, first_line(error))
    raise error


def _read_error(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"the checkpoint {path} cannot be read: {first_line(error)}",
        "delete that folder to resume from the previous checkpoint",
    )
