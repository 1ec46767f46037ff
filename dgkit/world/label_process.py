"""A process that writes label maps of the source role, ``python -m dgkit.world.label_process``.

Its input is a request; it prints the number of finished label maps after each one.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from dgkit.processes import helper_process
from dgkit.progress import Advance
from dgkit.world.write import write_role

_MODULE = "dgkit.world.label_process"


@dataclass(frozen=True)
class LabelRequest:
    """``count`` label maps of ``height`` pixels, twice as wide, in ``folder``."""

    folder: str
    count: int
    seed: int
    height: int
    workers: int


def write_labels(request: LabelRequest, progress: Advance | None = None) -> None:
    """Write the label maps that the folder lacks. Raises as :func:`~dgkit.world.write.write_role`."""
    folder, height, workers = Path(request.folder), request.height, request.workers
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_role(
        folder, "source", request.count, request.seed,
        height=height, width=2 * height, workers=workers, images=False, progress=progress,
    )  # fmt: skip


def count_missing(request: LabelRequest) -> int:
    """Return the number of label maps that the folder lacks."""
    return max(0, request.count - sum(1 for _ in Path(request.folder, "labels").glob("*.png")))


@contextmanager
def writing_labels(request: LabelRequest, progress: Advance) -> Iterator[None]:
    """Write label maps in a process of its own while the block runs; at the end of the block, wait for it.

    ``progress`` is called during the wait. Label maps that the process could not write are missing afterwards.
    """
    with helper_process(_MODULE, asdict(request), subprocess.PIPE) as process:
        yield
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().isdigit():  # anything else is the output of a library
                progress(int(line), request.count)


def _report(done: float, total: float) -> None:
    sys.stdout.write(f"{int(done)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    write_labels(LabelRequest(**json.load(sys.stdin)), _report)
