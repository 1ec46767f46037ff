"""Write a role to disk, in the layout of the set it stands in for (:mod:`dgkit.world.disk_layouts`)."""

import io
import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dgkit.errors import OutputError, UsageError
from dgkit.files import atomic_write, output_error
from dgkit.world import disk_layouts as disk
from dgkit.world import vistas
from dgkit.world.render import Scene, check, render
from dgkit.world.roles import ROLES

SETTINGS = "world.json"
_VERSION = 2  # raise when the same settings would draw other pictures


@dataclass(frozen=True)
class _Job:
    """One scene to write. ``index`` is that of :func:`render`; ``files`` are below ``out``."""

    out: Path
    role: str
    seed: int
    index: int
    height: int
    width: int
    files: disk.Files


def write_role(
    out: Path,
    role: str,
    count: int,
    seed: int,
    *,
    height: int = 256,
    width: int | None = None,
    split: str | None = None,
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write ``count`` scenes of ``role`` into ``out``; ``progress`` is told how many are done.

    A labelled role gets the folders, file names, formats and ids of its set, so that ``open_dataset`` reads it (GTA5
    for ``source``); ``prior`` becomes ``images/00001.png`` and ``metadata.jsonl``. Without ``width`` pictures have the
    proportions of the set; ``mapillary`` then mixes sizes around ``height``. ``split`` is "train", "val" or "test",
    None the set's usual one; splits share no scene and may lie in one folder. Files do not depend on ``workers``. A
    folder of the same settings is continued: pictures that are there are not drawn again.
    Raises UsageError for wrong arguments, OutputError when ``out`` holds something else or cannot be written.
    """
    check(role, seed, 0, height, 512 if width is None else width)
    if count < 1 or workers < 1:
        raise UsageError(f"count {count} and workers {workers} must be at least 1", "use --count 100 --workers 2")
    split = disk.resolve_split(role, split)
    out = Path(out)
    fixed = disk.fixed_width(role, height, width)
    _claim(out, {"version": _VERSION, "role": role, "seed": seed, "height": height, "width": fixed})
    jobs = [_job(out, role, seed, split, number, height, width) for number in range(count)]
    todo = [job for job in jobs if not _complete(job)]
    done = count - len(todo)
    if progress:
        progress(done)
    try:
        for _ in _run(todo, min(workers, max(1, len(todo)))):
            done += 1
            if progress:
                progress(done)
    except BrokenProcessPool as error:
        hint = "use --workers 1; a script that asks for more needs an 'if __name__ == \"__main__\":' around its calls"
        raise OutputError(f"a drawing process was killed after {done} of {count} scenes", hint) from error
    if not ROLES[role].labelled:
        atomic_write(out / "metadata.jsonl", "".join(map(_line, jobs)).encode())


def _job(out: Path, role: str, seed: int, split: str | None, number: int, height: int, width: int | None) -> _Job:
    index = disk.scene_index(split, number)
    rows, columns = disk.size(role, seed, index, height, width)
    return _Job(out, role, seed, index, rows, columns, disk.DISKS[role].name(split, seed, number))


def _run(jobs: list[_Job], workers: int) -> Iterator[int]:
    if workers <= 1:
        yield from map(_one, jobs)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_leave_interrupts)
    try:
        yield from pool.map(_one, jobs, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    """Ctrl-C reaches every process of the terminal; only the main one answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _claim(out: Path, settings: dict[str, object]) -> None:
    """Make ``out`` ours or check that it already is."""
    path = out / SETTINGS
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise OutputError(f"{path} is not JSON: {error}", f"remove {out} or choose another folder") from error
        for key, value in settings.items():
            if found.get(key) != value:
                raise OutputError(
                    f"{out} was written with {key} {found.get(key)!r}, not {value!r}",
                    "choose another folder or remove this one",
                )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists, is not empty and holds no {SETTINGS}", "choose an empty or new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(out, error) from error
    atomic_write(path, (json.dumps(settings) + "\n").encode())
    if settings["role"] == "mapillary":
        atomic_write(out / "config.json", vistas.config())


def _complete(job: _Job) -> bool:
    """Whether a scene is on disk; the label is written last and files appear by renaming only."""
    paths = (job.files.image, *(path for path, _ in job.files.labels))
    return all((job.out / path).exists() for path in paths)


def _line(job: _Job) -> str:
    """The line of metadata.jsonl; caption and style travel inside the PNG, so a continued run need not draw again."""
    with Image.open(job.out / job.files.image) as image:
        facts = {"file_name": str(job.files.image), "text": image.info["Description"], "style": image.info["Style"]}
    return json.dumps(facts) + "\n"


def _one(job: _Job) -> int:
    scene = render(job.role, job.seed, job.index, height=job.height, width=job.width)
    if job.files.labels:
        atomic_write(job.out / job.files.image, disk.encode_image(scene.image, job.files.image))
    else:
        atomic_write(job.out / job.files.image, _captioned(scene))
    for path, form in job.files.labels:
        atomic_write(job.out / path, disk.encode_label(scene.label, form))
    return job.index


def _captioned(scene: Scene) -> bytes:
    """A PNG that holds its own caption."""
    text, data = PngInfo(), io.BytesIO()
    text.add_text("Description", scene.caption)
    text.add_text("Style", scene.style)
    Image.fromarray(scene.image).save(data, "PNG", compress_level=1, pnginfo=text)
    return data.getvalue()
