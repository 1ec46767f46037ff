"""What a training run writes for people: log.csv, validation.csv, pictures, and all of it for TensorBoard.

A resumed run first drops what came after its checkpoint, so that the files are those of an uninterrupted run (but for
the seconds).
"""

import contextlib
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dgkit.files import atomic_path, atomic_write, output_error
from dgkit.optional import require

require("tensorboard", "train")  # by its own name: the error of torch's module would blame torch
tensorboard: Any = require("torch.utils.tensorboard", "train")

LOG = ("step", "loss", "lr", "grad_norm", "seconds")
VALIDATION = ("step", "name", "value")


class Meter:
    """Losses since the last line of the log, and the last fifty for display; part of the checkpoint."""

    def __init__(self, saved: Mapping[str, Sequence[float]] | None = None) -> None:
        saved = saved or {"pending": [], "recent": []}
        self.pending = list(saved["pending"])
        self.recent = deque(saved["recent"], maxlen=50)
        self.seconds = 0.0
        self.timed = 0

    def add(self, loss: float, seconds: float) -> None:
        """Note the loss of one step and the seconds it took."""
        self.pending.append(loss)
        self.recent.append(loss)
        self.seconds += seconds
        self.timed += 1

    def smoothed(self) -> float:
        """Mean of the last fifty losses."""
        return sum(self.recent) / len(self.recent)

    def take(self) -> tuple[float, float]:
        """Mean loss and seconds per step since the last call."""
        loss, seconds = sum(self.pending) / len(self.pending), self.seconds / self.timed
        self.pending, self.seconds, self.timed = [], 0.0, 0
        return loss, seconds

    def state(self) -> dict[str, list[float]]:
        """What makes an equal meter, but for the seconds."""
        return {"pending": self.pending, "recent": list(self.recent)}


class Record:
    """The files of one run under ``folder``; opened by the main process alone. Raises OutputError on a full disk."""

    def __init__(self, folder: Path, step: int) -> None:
        """Go on after ``step`` steps, dropping what the files say of later ones."""
        self.folder = folder
        self.log, self.validation = folder / "log.csv", folder / "validation.csv"
        _trim(self.log, LOG, step)
        _trim(self.validation, VALIDATION, step)
        with _writing(folder / "logs"):
            self.board: Any = tensorboard.SummaryWriter(str(folder / "logs"), purge_step=step + 1)

    def train(self, step: int, loss: float, lr: float, norm: float, seconds: float) -> None:
        """One line of the log: mean loss and seconds per step since the last line, rate and gradient norm of now."""
        _append(self.log, [f"{step},{loss:.9g},{lr:.9g},{norm:.9g},{seconds:.4g}"])
        with _writing(self.folder / "logs"):
            for name, value in (("loss", loss), ("lr", lr), ("grad_norm", norm), ("seconds", seconds)):
                self.board.add_scalar(f"train/{name}", value, step)

    def validate(self, step: int, figures: Mapping[str, float | np.ndarray]) -> None:
        """Figures, and pictures (uint8 [H,W,3]) as ``validation/step_XXXXXXXX_name.png``."""
        lines = []
        with _writing(self.folder / "logs"):
            for name, value in figures.items():
                if isinstance(value, np.ndarray):
                    self.board.add_image(f"validation/{name}", value, step, dataformats="HWC")
                    self._picture(step, name, value)
                else:
                    self.board.add_scalar(f"validation/{name}", value, step)
                    lines.append(f"{step},{name},{value:.9g}")
        _append(self.validation, lines)

    def sync(self) -> None:
        """Force all lines to the disk: a checkpoint that follows may then count on them."""
        for path in (self.log, self.validation):
            with _writing(path), open(path, "rb") as file:
                os.fsync(file.fileno())
        with _writing(self.folder / "logs"):
            self.board.flush()

    def close(self) -> None:
        with _writing(self.folder / "logs"):
            self.board.close()

    def _picture(self, step: int, name: str, picture: np.ndarray) -> None:
        path = self.folder / "validation" / f"step_{step:08d}_{name.replace('/', '_')}.png"
        with atomic_path(path) as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")


def _trim(path: Path, columns: Sequence[str], step: int) -> None:
    """Keep the lines up to ``step``; a line that a kill cut short has no end and goes."""
    with _writing(path):
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [line for line in text.splitlines(keepends=True)[1:] if line.endswith("\n")]
    kept = [line for line in lines if int(line.partition(",")[0]) <= step]
    atomic_write(path, (",".join(columns) + "\n" + "".join(kept)).encode())


def _append(path: Path, lines: Sequence[str]) -> None:
    with _writing(path), open(path, "a", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error
