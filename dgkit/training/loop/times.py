"""Seconds that each stage of a training took, summed over all its runs: ``times.json``."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dgkit.files import atomic_write, json_bytes
from dgkit.progress import Progress

SAVE_SECONDS = 20.0  # between two writes; a kill loses at most this much


@contextmanager
def timed(work: Path, name: str, progress: Progress | None) -> Iterator[Progress]:
    """Add the duration of the block to ``name`` in ``work/times.json``, also if the block fails.

    Yields a progress callback that calls ``progress``, if given, and saves the time every :data:`SAVE_SECONDS`.
    """
    path = work / "times.json"
    times: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    before, start = times.get(name, 0.0), time.monotonic()
    saved = start

    def save() -> None:
        times[name] = round(before + time.monotonic() - start, 2)
        atomic_write(path, json_bytes(times))

    def report(stage: str, done: float, total: float, note: str = "") -> None:
        nonlocal saved
        if progress:
            progress(stage, done, total, note)
        if time.monotonic() - saved > SAVE_SECONDS:
            saved = time.monotonic()
            save()

    try:
        yield report
    finally:
        save()
