"""``verify``: check that a folder holds every image, intact and with its label, and nothing else."""

import contextlib
import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.data.generated import MANIFEST, SETTINGS, not_generated
from dgkit.data.manifest import Manifest, read_lines
from dgkit.data.pictures import picture_size, read_pixels
from dgkit.data.records import Record, parse_record
from dgkit.errors import InputError, OutputError
from dgkit.files import digest_file, is_hidden, is_temporary, output_error, parse_json, user_path
from dgkit.generation.blocks import belongs, block_numbers, total_images
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.settings import resolve_paths
from dgkit.generation.writer import SUBFOLDERS, OutputFolder
from dgkit.labels import IGNORE
from dgkit.locks import has_writer
from dgkit.progress import Notify, Progress, ignore
from dgkit.taxonomies import find_taxonomy

MAX_LISTED = 1000  # missing images that are problems of their own; a run may have 10 million
THREADS = 4  # decoding and hashing release the GIL
KINDS = {
    "line": "manifest lines that do not describe an image of this run",
    "twice": "images with more than one manifest line",
    "job": "images that are not generated yet",
    "missing": "files named in the manifest that are missing",
    "unreadable": "files that cannot be read as an image",
    "size": "images of another size or type",
    "digest": "files that changed after they were written",
    "ids": "labels with ids other than those of the classes and 255",
    "orphan": "files that no manifest line names",
    "temporary": "incomplete files of a killed run",
}
_GENERATED = re.compile(r"^\d{6,}(_[A-Za-z0-9.-]+)*(_labelTrainIds)?\.png$")  # file names that a run uses


@dataclass(frozen=True)
class FolderProblem:
    """A problem of a kind in :data:`KINDS`; ``path`` is relative to the folder, ``index`` the job number if any."""

    kind: str
    path: str
    index: int | None = None


@dataclass(frozen=True)
class VerifyResult:
    """The result of a check: ``images`` were checked of ``expected``, with the remaining ``problems``.

    ``unlisted`` is the number of images that are not generated yet and not among the problems, which list the first
    :data:`MAX_LISTED`. ``repaired`` problems were fixed. ``redrawn`` images were generated again, ``changed`` of them
    with other bytes than before: pixels computed on another machine or with other threads may differ in their last
    bits.
    """

    out: Path
    images: int
    expected: int
    problems: tuple[FolderProblem, ...]
    unlisted: int = 0
    repaired: int = 0
    redrawn: int = 0
    changed: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Number of problems by kind, in the order of :data:`KINDS`."""
        found = Counter(problem.kind for problem in self.problems) + Counter(job=self.unlisted)
        return {kind: found[kind] for kind in KINDS if kind in found}

    def to_json(self) -> dict[str, Any]:
        """Return what ``dgkit verify --json`` prints."""
        problems = [{"kind": p.kind, "path": p.path, "index": p.index} for p in self.problems]
        return {
            "out": str(self.out),
            "images": self.images,
            "expected": self.expected,
            "counts": self.counts,
            "problems": problems,
            "repaired": self.repaired,
            "redrawn": self.redrawn,
            "changed": self.changed,
        }


def verify(
    out: str | Path, *, repair: bool = False, progress: Progress | None = None, notify: Notify | None = None
) -> VerifyResult:
    """Check every image of a folder that ``generate`` or ``merge`` filled; without ``repair`` nothing is written.

    Every file in the manifest must exist, be readable, and have the configured size and the digest of its manifest
    line. Labels must hold train ids only. Every job must have its image, and every file its manifest line. ``repair``
    generates missing and damaged images again, identical to before, and removes files that a run left behind. Files
    with other names are kept and still reported.

    ``progress`` reports the stage "verify", in images, and with ``repair`` those of ``generate``.

    Raises InputError for a folder that was not generated, OutputError for a folder in use, and with ``repair`` what
    ``generate`` raises.
    """
    path, progress = user_path(out), progress or ignore
    config, folder = _config(path), OutputFolder(path)
    # Held until the end: a run that started meanwhile would find its images removed or made twice.
    with folder.locked() if repair and os.access(path, os.W_OK) else contextlib.nullcontext():
        before, old = _inspect(path, config, progress)
        if not repair or not before.problems:
            return before
        _remove_damaged(path, before.problems)
        from dgkit.generation.run import generate_into

        without_ray = resolve_paths(config.model_copy(update={"ray": None}))
        result = generate_into(folder, without_ray, progress, notify)
        _remove_orphans(path, folder.records)
        after, new = _inspect(path, config, progress)
    left = set(after.problems)
    repaired = sum(problem not in left for problem in before.problems) + before.unlisted - after.unlisted
    changed = sum(new[index].image_sha256 != record.image_sha256 for index, record in old.items() if index in new)
    return dataclasses.replace(after, repaired=repaired, redrawn=result.written, changed=changed)


def inspect_folder(path: Path, progress: Progress) -> tuple[GenerateConfig, VerifyResult, dict[int, Record]]:
    """Return the settings of a folder, its problems, and its records by job number. Raises as :func:`verify`."""
    config = _config(path)
    return config, *_inspect(path, config, progress)


def _inspect(path: Path, config: GenerateConfig, progress: Progress) -> tuple[VerifyResult, dict[int, Record]]:
    problems, records = _read_lines(path)
    missing = (number for numbers in block_numbers(config) for number in numbers if number not in records)
    listed = list(islice(missing, MAX_LISTED))
    unlisted = sum(1 for _ in missing)
    problems += [FolderProblem("job", "", number) for number in listed]
    problems += [FolderProblem("line", MANIFEST, number) for number in sorted(records) if not belongs(config, number)]
    with ThreadPoolExecutor(THREADS) as threads:
        found = threads.map(lambda record: list(_check(path, record, config)), records.values())
        for done, some in enumerate(found, 1):
            problems += some
            progress("verify", done, len(records))
    problems += _unnamed_files(path, records)
    if not listed:
        problems += _readable(path, "contact_sheet.png", None)
    return VerifyResult(path, len(records), total_images(config), tuple(problems), unlisted), records


def _config(path: Path) -> GenerateConfig:
    config = OutputFolder(path).check() if path.is_dir() else None
    if config is None:
        raise not_generated(path)
    if config.size is None:
        raise InputError(f"{path / SETTINGS} does not state the size of the images", "restore it from a copy")
    if has_writer(path):
        raise OutputError(f"another run is writing to {path}", "wait for it to end")
    return config


def _read_lines(path: Path) -> tuple[list[FolderProblem], dict[int, Record]]:
    """Return the problems of the manifest and the record of each job; of several lines for a job, the last."""
    problems, records = [], {}
    for number, line in enumerate(_manifest_lines(path), 1):
        record = parse_record(line)
        if record is None:
            problems.append(FolderProblem("line", f"{MANIFEST}:{number}"))
            continue
        if record.index in records:
            problems.append(FolderProblem("twice", f"{MANIFEST}:{number}", record.index))
        records[record.index] = record
    return problems, records


def _manifest_lines(path: Path) -> list[dict[str, Any]]:
    """Return the object of each manifest line; an empty one for a line that is not a JSON object."""
    return [_parse_line(line) for line in read_lines(path / MANIFEST) if line.strip()]


def _parse_line(line: bytes) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _check(path: Path, record: Record, config: GenerateConfig) -> Iterator[FolderProblem]:
    """Yield the problems of the files of one image."""
    assert config.size is not None  # config.yaml always states it
    classes = find_taxonomy(config.taxonomy).size
    height, width = config.size
    expected = {
        record.image: ((height, width, 3), record.image_sha256),
        record.label: ((height, width), record.label_sha256),
        record.vis: ((height, 3 * width, 3), None),
    }
    for name, (shape, digest) in expected.items():
        array = _decode(path / name, (shape[1], shape[0]))
        if array is None:
            kind = "unreadable" if (path / name).exists() else "missing"
            yield FolderProblem(kind, name, record.index)
        elif array.shape != shape or array.dtype != np.uint8:
            yield FolderProblem("size", name, record.index)
        elif digest is not None and digest_file(path / name) != digest:
            yield FolderProblem("digest", name, record.index)
        elif name == record.label and ((array >= classes) & (array != IGNORE)).any():
            yield FolderProblem("ids", name, record.index)


def _readable(path: Path, name: str, index: int | None) -> Iterator[FolderProblem]:
    if _decode(path / name) is None:
        yield FolderProblem("unreadable" if (path / name).exists() else "missing", name, index)


def _decode(path: Path, size: tuple[int, int] | None = None) -> np.ndarray | None:
    """Return the pixels of an image, None if it cannot be decoded completely.

    An image that is not of ``size`` (width, height), if given, is not decoded: its array has no pixels.
    """
    try:
        other = size is not None and picture_size(path) != (size[1], size[0])
        return np.empty(0, np.uint8) if other else read_pixels(path)
    except InputError:
        return None


def _unnamed_files(path: Path, records: Mapping[int, Record]) -> Iterator[FolderProblem]:
    """Yield files that no manifest line names, except hidden ones, and incomplete files of a killed run."""
    named = {name for record in records.values() for name in (record.image, record.label, record.vis)}
    folders = [path, *(path / name for name in SUBFOLDERS)]
    for entry in sorted(entry for folder in folders if folder.is_dir() for entry in folder.iterdir()):
        name = str(entry.relative_to(path))
        if is_temporary(entry.name):
            yield FolderProblem("temporary", name)
        elif entry.parent != path and name not in named and not is_hidden(entry.name):
            yield FolderProblem("orphan", name)


def _remove_damaged(path: Path, problems: Sequence[FolderProblem]) -> None:
    """Remove damaged files and manifest lines, so that the run generates their images again."""
    try:
        for problem in problems:
            if problem.kind in ("unreadable", "size", "digest", "ids", "temporary"):
                (path / problem.path).unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path / problem.path, error) from error
    if any(problem.kind in ("line", "twice") for problem in problems):
        records = _read_lines(path)[1]
        Manifest(path / MANIFEST).rewrite(records[index].to_json() for index in sorted(records))


def _remove_orphans(path: Path, records: Mapping[int, Record]) -> None:
    """Remove unnamed files whose names are those of a run; other files stay."""
    for problem in _unnamed_files(path, records):
        if problem.kind == "orphan" and _GENERATED.match(Path(problem.path).name):
            (path / problem.path).unlink(missing_ok=True)
