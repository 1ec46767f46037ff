"""Seconds that each stage of a training took, summed over all its runs: ``times.json``."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dgkit.errors import InputError
from dgkit.files import atomic_write, json_bytes
from dgkit.progress import Progress
from dgkit.training.loop.integrity import read_object

SAVE_SECONDS = 20.0  # between two writes; a kill loses at most this much


@contextmanager
def timed(work: Path, name: str, progress: Progress | None) -> Iterator[Progress]:
    """Add the duration of the block to ``name`` in ``work/times.json``, also if the block fails.

    Nothing is written before the block creates ``work``. Raises InputError if the file is not one of seconds by name.
    Yields a progress callback that calls ``progress``, if given, and saves the time every :data:`SAVE_SECONDS`.
    """
    path = work / "times.json"
    times = _read(path) if path.exists() else {}
    before, start = times.get(name, 0.0), time.monotonic()
    saved = start

    def save() -> None:
        if work.is_dir():
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


def _read(path: Path) -> dict[str, float]:
    try:
        times = read_object(path)
        if any(type(value) not in (int, float) or not 0 <= value < float("inf") for value in times.values()):
            raise ValueError(f"{path.name} holds values that are not seconds")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", "delete it to count the seconds from 0") from error
    return times
