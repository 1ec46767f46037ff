"""Writing a role to disk, in the layout of the data set it stands in for (:mod:`dgkit.world.disk_layouts`)."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dgkit.errors import OutputError, UsageError
from dgkit.files import atomic_write, is_hidden, output_error, parse_json, read_file
from dgkit.processes import start_pool_worker
from dgkit.progress import Advance
from dgkit.world import disk_layouts as disk
from dgkit.world import vistas
from dgkit.world.render import Scene, check_arguments, render, render_label
from dgkit.world.roles import ROLES

SETTINGS = "world.json"
_VERSION = 2  # increase it when the same settings would draw other pictures


@dataclass(frozen=True)
class _SceneJob:
    """One scene to write; ``index`` is that of :func:`render`, ``files`` are below ``out``."""

    out: Path
    role: str
    seed: int
    index: int
    height: int
    width: int
    files: disk.ScenePaths
    images: bool


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
    images: bool = True,
    progress: Advance | None = None,
) -> None:
    """Write ``count`` scenes of ``role`` into ``out``.

    A labelled role gets the folders, file names, formats and ids of its data set, so that ``open_dataset`` reads it
    (GTA5 for ``source``); ``prior`` becomes ``images/00001.png`` and ``metadata.jsonl``. Without ``width`` pictures
    have the aspect ratio of the data set; ``mapillary`` then mixes sizes around ``height``. ``split`` is "train", "val"
    or "test", None the default of the data set; splits share no scene and can be written into one folder. The files do
    not depend on ``workers``. A folder with the same settings is resumed: existing files are kept. Without ``images``
    only labels are written, in about half of the time; a later call with them adds the pictures.
    Raises UsageError for wrong arguments, OutputError if ``out`` holds something else or cannot be written.
    """
    role = disk.ROLE_ALIASES.get(role, role)
    check_arguments(role, seed, 0, height, 512 if width is None else width)
    if count < 1 or workers < 1:
        raise UsageError(
            f"count {count} and workers {workers} must be at least 1", "use for example --count 100 --workers 2"
        )
    if not (images or ROLES[role].labelled):
        raise UsageError(f"role {role} has no labels", "write it with images")
    split = disk.resolve_split(role, split)
    out = Path(out)
    fixed = disk.fixed_width(role, height, width)
    _prepare_folder(out, {"version": _VERSION, "role": role, "seed": seed, "height": height, "width": fixed})
    jobs = [_job(out, role, seed, split, number, height, width, images) for number in range(count)]
    todo = [job for job in jobs if not _complete(job)]
    done = count - len(todo)
    if progress:
        progress(done, count)
    try:
        for _ in _run(todo, min(workers, max(1, len(todo)))):
            done += 1
            if progress:
                progress(done, count)
    except BrokenProcessPool as error:
        hint = "use --workers 1; a script with more workers needs 'if __name__ == \"__main__\":' around its calls"
        raise OutputError(f"a worker process was killed after {done} of {count} scenes", hint) from error
    if not ROLES[role].labelled:
        atomic_write(out / "metadata.jsonl", "".join(map(_metadata_line, jobs)).encode())


def _job(
    out: Path, role: str, seed: int, split: str | None, number: int, height: int, width: int | None, images: bool
) -> _SceneJob:
    index = disk.scene_index(split, number)
    rows, columns = disk.size(role, seed, index, height, width)
    return _SceneJob(out, role, seed, index, rows, columns, disk.DISK_LAYOUTS[role].files(split, seed, number), images)


def _run(jobs: list[_SceneJob], workers: int) -> Iterator[int]:
    if workers <= 1:
        yield from map(_write_scene, jobs)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=start_pool_worker)
    try:
        yield from pool.map(_write_scene, jobs, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_folder(out: Path, settings: dict[str, object]) -> None:
    """Create ``out`` with its settings, or check that it was written with the same ones."""
    path = out / SETTINGS
    if path.exists():
        try:
            found = parse_json(read_file(path))
        except ValueError as error:
            raise OutputError(f"{path} is not JSON: {error}", f"delete {out} or choose another folder") from error
        found = found if isinstance(found, dict) else {}
        for key, value in settings.items():
            if found.get(key) != value:
                raise OutputError(
                    f"{out} was written with {key} {found.get(key)!r}, not {value!r}",
                    "choose another folder or delete this one",
                )
    elif out.exists() and (not out.is_dir() or not all(is_hidden(path.name) for path in out.iterdir())):
        raise OutputError(f"{out} is not empty and has no {SETTINGS}", "choose an empty or new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(out, error) from error
    atomic_write(path, (json.dumps(settings) + "\n").encode())
    if settings["role"] == "mapillary":
        atomic_write(out / "config.json", vistas.config())


def _complete(job: _SceneJob) -> bool:
    """Return whether a scene is on disk; files are written atomically, the label last."""
    paths = [path for path, _ in job.files.labels]
    if job.images:
        paths.append(job.files.image)
    return all((job.out / path).exists() for path in paths)


def _metadata_line(job: _SceneJob) -> str:
    """Return the line of metadata.jsonl; caption and style are stored in the PNG, so resuming draws nothing again."""
    with Image.open(job.out / job.files.image) as image:
        facts = {"file_name": str(job.files.image), "text": image.info["Description"], "style": image.info["Style"]}
    return json.dumps(facts) + "\n"


def _write_scene(job: _SceneJob) -> int:
    label = _write_image(job) if job.images else _draw_label(job)
    for path, encoding in job.files.labels:
        atomic_write(job.out / path, disk.encode_label(label, encoding))
    return job.index


def _draw_label(job: _SceneJob) -> np.ndarray:
    return render_label(job.role, job.seed, job.index, height=job.height, width=job.width)


def _write_image(job: _SceneJob) -> np.ndarray:
    """Write the picture of a scene, with its caption if the scene has no label file; return the label map."""
    scene = render(job.role, job.seed, job.index, height=job.height, width=job.width)
    image = disk.encode_image(scene.image, job.files.image) if job.files.labels else _captioned(scene)
    atomic_write(job.out / job.files.image, image)
    return scene.label


def _captioned(scene: Scene) -> bytes:
    """Encode the picture as a PNG that contains its caption."""
    text, data = PngInfo(), io.BytesIO()
    text.add_text("Description", scene.caption)
    text.add_text("Style", scene.style)
    Image.fromarray(scene.image).save(data, "PNG", compress_level=1, pnginfo=text)
    return data.getvalue()
