"""The logs of a training run: log.csv, validation.csv, validation images, and TensorBoard files with all of them.

A resumed run first drops the lines after its checkpoint, so apart from the seconds its files equal those of an
uninterrupted run.
"""

import contextlib
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dgkit.errors import InputError
from dgkit.files import atomic_path, atomic_write, output_error
from dgkit.optional import require

require("tensorboard", "train")  # checked first: the error of torch.utils.tensorboard would name torch
tensorboard: Any = require("torch.utils.tensorboard", "train")

LOG = ("step", "loss", "lr", "grad_norm", "seconds")
VALIDATION = ("step", "name", "value")


class Meter:
    """Losses since the last log line, and the last fifty for display; saved in every checkpoint."""

    def __init__(self, saved: Mapping[str, Sequence[float]] | None = None) -> None:
        saved = saved or {"pending": [], "recent": []}
        self.pending = list(saved["pending"])
        self.recent = deque(saved["recent"], maxlen=50)
        self.seconds = 0.0
        self.timed = 0

    def add(self, loss: float, seconds: float) -> None:
        """Add the loss of one step and its duration in seconds."""
        self.pending.append(loss)
        self.recent.append(loss)
        self.seconds += seconds
        self.timed += 1

    def smoothed(self) -> float:
        """Return the mean of the last fifty losses."""
        return sum(self.recent) / len(self.recent)

    def take(self) -> tuple[float, float]:
        """Return mean loss and seconds per step since the last call, and start a new interval."""
        loss, seconds = sum(self.pending) / len(self.pending), self.seconds / self.timed
        self.pending, self.seconds, self.timed = [], 0.0, 0
        return loss, seconds

    def state(self) -> dict[str, list[float]]:
        """Return the state without the seconds, as ``saved`` of a new meter."""
        return {"pending": self.pending, "recent": list(self.recent)}


class TrainingLog:
    """The log files of one run in ``folder``, opened by the main process only. Raises OutputError on a full disk.

    A run resumed after ``step`` steps drops the lines of later steps.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        self.log, self.validation = folder / "log.csv", folder / "validation.csv"
        _trim(self.log, LOG, step)
        _trim(self.validation, VALIDATION, step)
        with _writing(folder / "logs"):
            self.board: Any = tensorboard.SummaryWriter(str(folder / "logs"), purge_step=step + 1)

    def add_step(self, step: int, loss: float, lr: float, norm: float, seconds: float) -> None:
        """Write a log line: mean loss and seconds per step since the last line, current learning rate and norm."""
        _append(self.log, [f"{step},{loss:.9g},{lr:.9g},{norm:.9g},{seconds:.4g}"])
        with _writing(self.folder / "logs"):
            for name, value in (("loss", loss), ("lr", lr), ("grad_norm", norm), ("seconds", seconds)):
                self.board.add_scalar(f"train/{name}", value, step)

    def add_validation(self, step: int, results: Mapping[str, float | np.ndarray]) -> None:
        """Write metrics to validation.csv and images (uint8 [H,W,3]) to ``validation/step_XXXXXXXX_name.png``."""
        lines = []
        with _writing(self.folder / "logs"):
            for name, value in results.items():
                if isinstance(value, np.ndarray):
                    self.board.add_image(f"validation/{name}", value, step, dataformats="HWC")
                    self._save_image(step, name, value)
                else:
                    self.board.add_scalar(f"validation/{name}", value, step)
                    lines.append(f"{step},{name},{value:.9g}")
        _append(self.validation, lines)

    def sync(self) -> None:
        """Flush all lines to the disk, before a checkpoint that relies on them is written."""
        for path in (self.log, self.validation):
            with _writing(path), path.open("rb") as file:
                os.fsync(file.fileno())
        with _writing(self.folder / "logs"):
            self.board.flush()

    def close(self) -> None:
        """Close the TensorBoard file."""
        with _writing(self.folder / "logs"):
            self.board.close()

    def _save_image(self, step: int, name: str, image: np.ndarray) -> None:
        path = self.folder / "validation" / f"step_{step:08d}_{name.replace('/', '_')}.png"
        with atomic_path(path) as temporary:
            Image.fromarray(image).save(temporary, format="PNG")


def _trim(path: Path, columns: Sequence[str], step: int) -> None:
    """Keep the lines up to ``step``; a last line without an end, cut off by a kill, is dropped too."""
    with _writing(path):
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = [line for line in text.splitlines(keepends=True)[1:] if line.endswith("\n")]
    try:
        kept = [line for line in lines if int(line.partition(",")[0]) <= step]
    except ValueError as error:
        raise _unreadable(path) from error
    atomic_write(path, (",".join(columns) + "\n" + "".join(kept)).encode())


def last_loss(folder: Path) -> float:
    """Return the loss in the last line of ``log.csv``. Raises InputError if the file is not a log."""
    path = folder / "log.csv"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return float(dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))["loss"])
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> InputError:
    return InputError(f"{path} is not a log of this training", "delete it; the log then starts at the last checkpoint")


def _append(path: Path, lines: Sequence[str]) -> None:
    with _writing(path), path.open("a", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error
