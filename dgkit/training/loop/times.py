"""How long each stage of a training took, over all the runs that it was made in: ``times.json``."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dgkit.files import atomic_write
from dgkit.progress import Progress

NOTE_SECONDS = 20.0  # between two notes: what a kill may lose


@contextmanager
def timed(work: Path, name: str, progress: Progress | None) -> Iterator[Progress]:
    """Add the seconds that the block takes to ``name`` in ``work/times.json``, also where it fails.

    Yields a progress that calls ``progress``, if there is one, and notes the time now and then.
    """
    path = work / "times.json"
    times: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    before, start = times.get(name, 0.0), time.monotonic()
    noted = start

    def write() -> None:
        times[name] = round(before + time.monotonic() - start, 2)
        atomic_write(path, (json.dumps(times, indent=2) + "\n").encode())

    def report(stage: str, done: float, total: float, note: str = "") -> None:
        nonlocal noted
        if progress:
            progress(stage, done, total, note)
        if time.monotonic() - noted > NOTE_SECONDS:
            noted = time.monotonic()
            write()

    try:
        yield report
    finally:
        write()
