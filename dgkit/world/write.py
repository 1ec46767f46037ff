"""Write a role to disk: a GTA5-like labelled set, or a captioned Hugging Face ImageFolder."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dgkit.errors import OutputError, UsageError
from dgkit.labels import ENCODINGS, PALETTE
from dgkit.world.render import check, render
from dgkit.world.roles import ROLES

SETTINGS = "world.json"
_VERSION = 2  # raise when the same settings would draw other pictures
_Job = tuple[str, str, int, int, int, int]


def write_role(
    out: Path,
    role: str,
    count: int,
    seed: int,
    *,
    height: int = 256,
    width: int = 512,
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write scenes 0..count-1 of ``role`` into ``out``; ``progress`` is told how many are done.

    A labelled role becomes ``images/00001.png`` and ``labels/00001.png`` (8-bit palette PNG, Cityscapes labelIds, 0 for
    ignore, as GTA5 ships them); any other role becomes ``images/00001.png`` and ``metadata.jsonl``. Files do not depend
    on ``workers``. A folder of the same settings is continued: pictures that are there are not drawn again.
    Raises UsageError for wrong arguments, OutputError when ``out`` holds something else.
    """
    check(role, seed, 0, height, width)
    if count < 1 or workers < 1:
        raise UsageError(f"count {count} and workers {workers} must be at least 1", "use --count 100 --workers 2")
    out = Path(out)
    _claim(out, {"version": _VERSION, "role": role, "seed": seed, "height": height, "width": width})
    jobs = [(str(out), role, seed, i, height, width) for i in range(count)]
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
    except OSError as error:
        hint = "make room or choose another folder; the same command continues"
        raise OutputError(f"cannot write to {out}: {error.strerror}", hint) from error
    if not ROLES[role].labelled:
        _atomic(out / "metadata.jsonl", "".join(map(_line, jobs)).encode())


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
        for name in ("images", "labels") if ROLES[str(settings["role"])].labelled else ("images",):
            (out / name).mkdir(parents=True, exist_ok=True)
        _atomic(path, (json.dumps(settings) + "\n").encode())
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror}", "choose another folder") from error


def _image_path(job: _Job) -> Path:
    return Path(job[0]) / "images" / f"{job[3] + 1:05d}.png"


def _label_path(job: _Job) -> Path:
    return Path(job[0]) / "labels" / f"{job[3] + 1:05d}.png"


def _complete(job: _Job) -> bool:
    """Whether a scene is on disk; the label is written last and files appear by renaming only."""
    return _image_path(job).exists() and (not ROLES[job[1]].labelled or _label_path(job).exists())


def _line(job: _Job) -> str:
    """The line of metadata.jsonl; caption and style travel inside the PNG, so a continued run need not draw again."""
    path = _image_path(job)
    with Image.open(path) as image:
        facts = {"file_name": f"images/{path.name}", "text": image.info["Description"], "style": image.info["Style"]}
    return json.dumps(facts) + "\n"


def _one(job: _Job) -> int:
    _, role, seed, index, height, width = job
    scene = render(role, seed, index, height=height, width=width)
    if ROLES[role].labelled:
        _save(Image.fromarray(scene.image), _image_path(job))
        _save(label_image(scene.label), _label_path(job))
    else:
        text = PngInfo()
        text.add_text("Description", scene.caption)
        text.add_text("Style", scene.style)
        _save(Image.fromarray(scene.image), _image_path(job), text)
    return index


def label_image(label: np.ndarray) -> Image.Image:
    """Train ids uint8 [H, W] -> 8-bit palette picture of Cityscapes labelIds (7 road .. 33 bicycle, 0 for 255)."""
    table = np.zeros(256, np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    for label_id, train_id in enumerate(ENCODINGS["cityscapes_ids"].table):
        if 0 <= train_id < len(PALETTE):
            table[train_id] = label_id
            palette[label_id] = PALETTE[train_id]
    image = Image.fromarray(table[label])
    image.putpalette(palette.tobytes())
    return image


def _save(image: Image.Image, path: Path, text: PngInfo | None = None) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    image.save(temporary, format="PNG", compress_level=1, pnginfo=text)
    os.replace(temporary, path)


def _atomic(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
