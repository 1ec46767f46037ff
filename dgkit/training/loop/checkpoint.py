"""Checkpoints of a training run: each is complete or absent, and the newest few are kept.

``folder/step_00000200/`` holds the trained weights (``model.safetensors``), their moving average
(``ema.safetensors``), the optimizer, the gradient scaler and the states of the random generators (as accelerate writes
them), and ``state.json``: the step, the settings, the state of the loss meter, size and SHA-256 of every other file,
and a SHA-256 of all that. Values must be finite before they are written and after they are read. A checkpoint is
written under a temporary name, flushed to the disk and renamed; only then is the oldest one removed. Checkpoints of
earlier versions have no digests and are only checked for finite values.
"""

import errno
import hashlib
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

from dgkit.errors import DgkitError, ModelError, OutputError, UsageError, shown
from dgkit.files import output_error
from dgkit.optional import first_line
from dgkit.training.loop.integrity import digest_files, find_damage, first_not_finite, read_object
from dgkit.training.loop.optimisation import FREE_ON_RESUME

_FINISHED = re.compile(r"step_(\d{8})")
_TEMPORARY = re.compile(r"\.step_\d{8}\.(new|old)")
_FULL_BELOW = 1 << 20  # bytes free
_WEIGHTS, _AVERAGE, _STATE = "model.safetensors", "ema.safetensors", "state.json"


FROZEN = "frozen_networks"
"""Name, in the identity of a task, of a digest of the networks that it trains with and that no checkpoint holds."""
# Values of a task that checkpoints of earlier versions do not state, as they were then.
_EARLIER = {"reward": None, "teacher": None}


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
    remain intact. Raises DgkitError, before anything is written, if a weight or a state of the optimizer is not finite.
    """
    accelerator = parts.accelerator
    _check_finite(folder, parts, state["step"])
    name = f"step_{state['step']:08d}"
    temporary = folder / f".{name}.new"
    try:
        _write(temporary, parts)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _write_state(temporary, state)
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
    """Return the contents of a checkpoint's ``state.json``. Raises ModelError if it cannot be read or has changed."""
    try:
        state = read_object(path / _STATE)
        _check_state(path, state)
        return state
    except (OSError, ValueError) as error:
        raise _read_error(path, error) from error


def check_settings(path: Path, state: Mapping[str, Any], wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UsageError if a run with the settings ``wanted`` must not resume from ``state``, read from ``path``.

    ``wanted`` has the groups "settings" (fields of the optimisation) and "identity" (values of the task).
    """
    for group, values in wanted.items():
        saved = state[group]
        for name, value in values.items():
            if name == FROZEN and saved.get(name, value) != value:
                raise UsageError(
                    f"the frozen networks are not those that {path} was trained with",
                    "restore the files of the starting model, or choose another folder",
                )
            before = saved.get(name, _EARLIER.get(name, value))
            if name not in FREE_ON_RESUME and before != value:
                raise UsageError(
                    f"{name}={shown(value)} differs from {name}={shown(before)}, which {path} was trained with; "
                    f"only these may change: {', '.join(sorted(FREE_ON_RESUME))}",
                    f"resume with {name}={shown(before)}, or choose another folder",
                )
    steps = wanted["settings"]["steps"]
    if steps < state["step"]:
        raise UsageError(
            f"steps={steps} is less than the {state['step']} steps already done in {path.parent}",
            f"use steps={state['step']} or more, or choose another folder",
        )


def load(path: Path, parts: Parts) -> None:
    """Load the checkpoint ``path`` into ``parts``. Raises ModelError if it is damaged or of another module."""
    if damage := _damage(path):
        raise _read_error(path, ValueError(damage))
    try:
        _load_weights(path / _WEIGHTS, parts.module)
        if parts.average is not None:
            _load_average(path / _AVERAGE, parts.module, parts.average)
        handle = parts.accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())
        parts.accelerator.load_state(str(path))
        handle.remove()
        if name := _first_not_finite(parts):
            raise ValueError(f"{name} holds values that are not finite")
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


def _write(folder: Path, parts: Parts) -> None:
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


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write ``state.json`` with the digests of all files that lie in ``folder``."""
    # Through JSON, so that the digest is that of the values as they are read.
    values = json.loads(json.dumps({**state, "files": digest_files(folder, folder.iterdir())}))
    text = json.dumps({**values, "sha256": _digest(values)}, indent=1)
    (folder / _STATE).write_text(text, encoding="utf-8")


def _digest(state: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in state.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _check_state(path: Path, state: Mapping[str, Any]) -> None:
    """Raise ValueError unless ``state`` has all values of a training, of the right types, as they were written."""
    if "sha256" in state and state["sha256"] != _digest(state):
        raise ValueError(f"{_STATE} differs from the SHA-256 recorded when it was written")
    kinds: dict[str, type] = {"step": int, "meter": dict, "settings": dict, "identity": dict}
    for name, kind in kinds.items():
        if type(state.get(name)) is not kind:
            raise ValueError(f"{_STATE} has no valid value of {name!r}")
    if path.name != f"step_{state['step']:08d}":
        raise ValueError(f"{_STATE} is of step {state['step']}")
    for name in ("pending", "recent"):
        values = state["meter"].get(name)
        if not isinstance(values, list) or any(type(value) not in (int, float) for value in values):
            raise ValueError(f"{_STATE} has no valid losses")


def _damage(path: Path) -> str:
    """Return what is wrong with the files of a checkpoint; "" if they are intact, or without recorded digests."""
    try:
        state = read_object(path / _STATE)
        _check_state(path, state)
        return find_damage(path, state["files"]) if "files" in state else ""
    except (OSError, ValueError) as error:
        return str(error)


def _check_finite(folder: Path, parts: Parts, step: int) -> None:
    if name := _first_not_finite(parts):
        raise DgkitError(
            f"{name} holds values that are not finite at step {step}; {_last_good(folder)}",
            "train again in another folder with a lower lr or precision=bf16",
        )


def _first_not_finite(parts: Parts) -> str:
    """Return the file and the name of the first weight, average or optimizer state with NaN or infinity, or ""."""
    average = parts.average.shadow_params if parts.average else ()
    groups: dict[str, Mapping[str, Any]] = {
        _WEIGHTS: _weights(parts.module),
        _AVERAGE: dict(zip(trained_parameters(parts.module), average, strict=False)),
        "optimizer.bin": _optimizer_state(parts),
    }
    for file, tensors in groups.items():
        if name := first_not_finite(tensors):
            return f"{name} in {file}"
    return ""


def _optimizer_state(parts: Parts) -> dict[str, Any]:
    """Return the tensors of the optimizers of ``parts`` by names for messages."""
    return {
        f"{name} of parameter {number}": value
        for optimizer in parts.accelerator._optimizers
        for number, values in enumerate(optimizer.state.values())
        for name, value in values.items()
    }


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


def _last_good(folder: Path) -> str:
    found = list_checkpoints(folder)
    return f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint yet"


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
    """Return an error that names the damaged checkpoint and the newest intact one before it."""
    earlier = [found for found in list_checkpoints(path.parent) if found.name < path.name]
    good = next((found for found in reversed(earlier) if not _damage(found)), None)
    following = f"to resume from {good}" if good else "to start again: there is no intact earlier checkpoint"
    return ModelError(f"the checkpoint {path} cannot be read: {first_line(error)}", f"delete that folder {following}")
