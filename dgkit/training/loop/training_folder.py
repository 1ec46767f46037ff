"""The output folder of a training: checked before anything is loaded, locked, and made once everything is valid."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from dgkit.config import Config, dump_config, read_recipe
from dgkit.data.pictures import EXIF, ignores_exif
from dgkit.errors import OutputError, UsageError
from dgkit.files import atomic_write, is_hidden, is_temporary, output_error, user_path
from dgkit.locks import sole_writer
from dgkit.progress import Notify, Progress

# What a training leaves behind once there is something to resume: checkpoints, finished stages, results.
_TRAINED = (
    *("checkpoints/step_*", "*/checkpoints/step_*", "iter_*.pth"),
    *("result.json", "*/result.json", "*/finished", "judge.json", "model_index.json", "config.json"),
)

R = TypeVar("R", bound=Config)
_ENVIRONMENT = "environment.yaml"  # variables that change what a training reads; absent if they have their defaults


def check_training_folder(out: Path | None, recipe: Config, free: frozenset[str]) -> Path:
    """Return ``out`` if ``recipe`` may be trained in it; nothing is written.

    That is a folder that is new, empty, or holds a run of the same recipe. ``free`` names the keys that may change
    between two runs of one training, such as ``"train.workers"``; a group such as ``"validation"`` frees all keys in
    it. A folder in which nothing has been trained yet accepts any recipe: a failed start leaves nothing to resume.

    Raises UsageError without a folder, for another recipe, or for photographs that were read in another way
    (:func:`dgkit.data.pictures.ignores_exif`), OutputError for a folder with other files.
    """
    if out is None:
        raise UsageError("no output folder was given", "add --out FOLDER")
    out = user_path(out)
    config = out / "config.yaml"
    if out.exists() and not out.is_dir():
        raise OutputError(f"cannot write {out}: it is a file", "choose a new folder with --out")
    if config.exists():
        if any(next(out.glob(pattern), None) for pattern in _TRAINED):
            _check_recipe(out, read_recipe(config), yaml.safe_load(dump_config(recipe)), free)
            _check_environment(out, recipe)
    elif out.exists() and not all(is_hidden(path.name) for path in out.iterdir()):
        raise OutputError(
            f"{out} is not empty and is not a training folder: it has no config.yaml", "choose a new folder with --out"
        )
    return out


def write_recipe(out: Path, recipe: Config) -> None:
    """Create ``out`` with ``recipe`` in ``config.yaml``, and the environment; it now belongs to this training.

    In a group of processes only the main one writes. Raises OutputError.
    """
    if main_process():
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(out, error) from error
        atomic_write(out / "config.yaml", dump_config(recipe).encode())
        if variables := _environment(recipe):
            atomic_write(out / _ENVIRONMENT, yaml.safe_dump(variables).encode())
        else:
            (out / _ENVIRONMENT).unlink(missing_ok=True)


@contextlib.contextmanager
def sole_training(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder`` for a training; in a group of processes the main one holds it.

    A folder that is created for the lock is removed again if nothing was written to it. Raises OutputError at once if
    another training runs there or the folder cannot be made.
    """
    if not main_process():
        yield
        return
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    try:
        with sole_writer(folder):
            yield
    finally:
        for path in missing:  # the innermost first
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()


def remove_stale(folder: Path) -> None:
    """Remove temporary files and folders that killed runs left in ``folder``; its lock must be held."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_temporary(path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


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


def _environment(recipe: Config) -> dict[str, str]:
    """Return the variables without their defaults; recipes with a section ``data`` read photographs."""
    return {EXIF: "ignore"} if "data" in type(recipe).model_fields and ignores_exif() else {}


def _check_environment(out: Path, recipe: Config) -> None:
    old = read_recipe(out / _ENVIRONMENT) if (out / _ENVIRONMENT).exists() else {}
    before, now = (values.get(EXIF, "apply") for values in (old, _environment(recipe)))
    if before != now:
        raise UsageError(
            f"{out} holds a training with {EXIF}={before}; it is {now} now",
            f"choose another folder with --out, or set {EXIF}={before}",
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


@dataclass(frozen=True)
class FolderTraining(Generic[R]):
    """A training of several stages in the folder ``work``; an interrupted one is resumed by running it again."""

    work: Path
    recipe: R
    progress: Progress | None = None
    notify: Notify | None = None

    @contextlib.contextmanager
    def opened(self, free: frozenset[str]) -> Iterator[None]:
        """Check and lock the folder; ``free`` as for :func:`check_training_folder`.

        Raises UsageError if the folder holds a training of another recipe, OutputError if another training runs there.
        """
        check_training_folder(self.work, self.recipe, free)
        with sole_training(self.work):
            check_training_folder(self.work, self.recipe, free)  # another training may have ended in between
            yield
