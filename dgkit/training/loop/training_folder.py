"""The output folder of a training: made for a new run, checked before a resumed one."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dgkit.config import Config, dump_config, read_recipe
from dgkit.errors import OutputError, UsageError
from dgkit.files import atomic_write, output_error


def open_training_folder(out: Path | None, recipe: Config, free: frozenset[str]) -> Path:
    """Create ``out`` and write ``recipe`` to its ``config.yaml``, or check that it holds a run of the same recipe.

    ``free`` names the keys that may change between two runs of one training, such as ``"train.workers"``; a group
    such as ``"validation"`` frees all keys in it. In a group of processes only the main one writes.

    Raises UsageError without a folder or for another recipe, OutputError for a folder with other files or one that
    cannot be written.
    """
    if out is None:
        raise UsageError("no output folder was given", "add --out FOLDER")
    out = out.expanduser()
    config = out / "config.yaml"
    if config.exists():
        _check_recipe(out, read_recipe(config), yaml.safe_load(dump_config(recipe)), free)
    elif out.exists() and any(out.iterdir()):
        raise OutputError(
            f"{out} is not empty and is not a training folder: it has no config.yaml", "choose a new folder with --out"
        )
    if main_process():
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(out, error) from error
        atomic_write(config, dump_config(recipe).encode())
    return out


def main_process() -> bool:
    """Return whether this is the first process of ``accelerate launch`` or ``torchrun``, the only one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def _check_recipe(out: Path, old: Mapping[str, Any], new: Mapping[str, Any], free: frozenset[str]) -> None:
    before, now = _flat(old), _flat(new)
    for key in sorted({*before, *now}):
        groups = key.split(".")
        is_free = any(".".join(groups[: i + 1]) in free for i in range(len(groups)))
        if not is_free and before.get(key) != now.get(key):
            raise UsageError(
                f"{out} holds a training with {key}={before.get(key)}; this recipe has {key}={now.get(key)}",
                f"choose another folder with --out, or use {key}={before.get(key)}",
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat
