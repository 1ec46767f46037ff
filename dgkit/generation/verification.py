"""``verify``: is every image of a folder there and whole, with its label, and nothing else?"""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dgkit.data.generated import MANIFEST
from dgkit.data.records import Record, parse_record
from dgkit.errors import InputError, OutputError
from dgkit.files import atomic_write, digest_file, output_error
from dgkit.generation.blocks import Notify, blocks
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.settings import Progress
from dgkit.generation.writer import SUBFOLDERS, OutputFolder
from dgkit.labels import IGNORE, NUM_CLASSES
from dgkit.locks import has_writer

THREADS = 4  # decoding and digests leave the interpreter's lock
KINDS = {
    "line": "manifest lines that are no record of an image of this run",
    "twice": "images with more than one manifest line",
    "job": "images that are not made yet",
    "missing": "listed files that are missing",
    "unreadable": "files that are no readable picture",
    "size": "pictures of another size or type",
    "digest": "files that are not those that were written",
    "ids": "labels with ids other than 0 to 18 and 255",
    "orphan": "files that no manifest line names",
    "temporary": "files that a killed run left half-written",
}
_TEMPORARY = re.compile(r"^\..+\.\d+\.tmp$")
_OWN = re.compile(r"^\d{6,}(_[A-Za-z0-9.-]+)*(_labelTrainIds)?\.png$")  # as a run names its files


@dataclass(frozen=True)
class Problem:
    """``kind`` is one of :data:`KINDS`, ``path`` relative to the folder, ``index`` the job where there is one."""

    kind: str
    path: str
    index: int | None = None


@dataclass(frozen=True)
class VerifyResult:
    """``images`` were looked at, ``expected`` should be there; ``repaired`` problems are gone, ``problems`` are left.

    ``redrawn`` images were made again, ``changed`` of them with other bytes than before: pixels computed on another
    machine or with other threads may differ in their last bits.
    """

    out: Path
    images: int
    expected: int
    problems: tuple[Problem, ...]
    repaired: int = 0
    redrawn: int = 0
    changed: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Number of problems of each kind that there is."""
        found = Counter(problem.kind for problem in self.problems)
        return {kind: found[kind] for kind in KINDS if kind in found}

    def to_json(self) -> dict[str, Any]:
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
    """Check every image of a folder that ``generate`` or ``merge`` filled; nothing is written without ``repair``.

    Every file that the manifest names must be there, readable, of the size of the settings and with the digest of its
    line; labels hold train ids only; every job of the settings has its image; no file is there that no line names.
    With ``repair`` the images that are missing or damaged are made again, the same as before, and files that a run left
    over are removed; files that no run named stay, and stay reported.

    ``progress`` hears of stage ``verify`` and, with ``repair``, of those of ``generate``. Raises InputError for a
    folder that no run made, OutputError for one in use, and with ``repair`` what ``generate`` raises.
    """
    path = Path(out)
    report = progress or (lambda stage, done, total: None)
    config, before, old = inspect(path, report)
    if not repair or not before.problems:
        return before
    _clear(path, before.problems)
    from dgkit.generation.run import generate

    alone = config.model_copy(update={"ray": None})
    made = generate(path, alone, progress=progress, notify=notify)
    _clear_orphans(path, {record.index: record for record in made.records})
    _, after, new = inspect(path, report)
    left = set(after.problems)
    gone = sum(problem not in left for problem in before.problems)
    changed = sum(new[index].image_sha256 != record.image_sha256 for index, record in old.items() if index in new)
    return dataclasses.replace(after, repaired=gone, redrawn=made.written, changed=changed)


def inspect(path: Path, report: Progress) -> tuple[GenerateConfig, VerifyResult, dict[int, Record]]:
    """The settings of a folder, what is wrong with it, and the records by job. Raises as :func:`verify`."""
    config = _config(path)
    if has_writer(path):
        raise OutputError(f"another run is writing to {path}", "wait for it to end")
    problems, records = _read_lines(path)
    expected = {number for numbers in blocks(config) for number in numbers}
    problems += [Problem("job", "", number) for number in sorted(expected - set(records))]
    problems += [Problem("line", MANIFEST, number) for number in sorted(set(records) - expected)]
    with ThreadPoolExecutor(THREADS) as threads:
        found = threads.map(lambda record: list(_check(path, record, config)), records.values())
        for done, some in enumerate(found, 1):
            problems += some
            report("verify", done, len(records))
    problems += _others(path, records)
    if expected <= set(records):
        problems += _readable(path, "contact_sheet.png", None)
    return config, VerifyResult(path, len(records), len(expected), tuple(problems)), records


def _config(path: Path) -> GenerateConfig:
    config = OutputFolder(path).check() if path.is_dir() else None
    if config is None:
        raise InputError(f"{path} holds no config.yaml of a run", "give the folder of a run of dgkit generate")
    return config


def _read_lines(path: Path) -> tuple[list[Problem], dict[int, Record]]:
    """Problems of the manifest, and the record of each job, the last line of several."""
    problems, records = [], {}
    for number, line in enumerate(_manifest_lines(path), 1):
        record = parse_record(line)
        if record is None:
            problems.append(Problem("line", f"{MANIFEST}:{number}"))
            continue
        if record.index in records:
            problems.append(Problem("twice", f"{MANIFEST}:{number}", record.index))
        records[record.index] = record
    return problems, records


def _manifest_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of the manifest's lines, an empty one for a line that holds none."""
    try:
        lines = (path / MANIFEST).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [_parse_json(line) for line in lines if line]


def _parse_json(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _check(path: Path, record: Record, config: GenerateConfig) -> Iterator[Problem]:
    """What is wrong with the files of one image."""
    assert config.size is not None  # of a config.yaml
    height, width = config.size
    wanted = {
        record.image: ((height, width, 3), record.image_sha256),
        record.label: ((height, width), record.label_sha256),
        record.vis: ((height, 3 * width, 3), None),
    }
    for name, (shape, digest) in wanted.items():
        array = _decode(path / name)
        if array is None:
            kind = "unreadable" if (path / name).exists() else "missing"
            yield Problem(kind, name, record.index)
        elif array.shape != shape or array.dtype != np.uint8:
            yield Problem("size", name, record.index)
        elif digest is not None and digest_file(path / name) != digest:
            yield Problem("digest", name, record.index)
        elif name == record.label and ((array >= NUM_CLASSES) & (array != IGNORE)).any():
            yield Problem("ids", name, record.index)


def _readable(path: Path, name: str, index: int | None) -> Iterator[Problem]:
    if _decode(path / name) is None:
        yield Problem("unreadable" if (path / name).exists() else "missing", name, index)


def _decode(path: Path) -> np.ndarray | None:
    """The pixels of a picture, None where it has none or is cut short."""
    try:
        with Image.open(path) as opened:
            return np.asarray(opened)
    except (OSError, SyntaxError, ValueError):
        return None


def _others(path: Path, records: Mapping[int, Record]) -> Iterator[Problem]:
    """Files below the folder that no line names, and what a killed run left half-written."""
    named = {name for record in records.values() for name in (record.image, record.label, record.vis)}
    places = [path, *(path / name for name in SUBFOLDERS)]
    for entry in sorted(entry for place in places if place.is_dir() for entry in place.iterdir()):
        name = str(entry.relative_to(path))
        if _TEMPORARY.match(entry.name):
            yield Problem("temporary", name)
        elif entry.parent != path and name not in named:
            yield Problem("orphan", name)


def _clear(path: Path, problems: Sequence[Problem]) -> None:
    """Take away what is damaged, so that the run sees work left."""
    try:
        for problem in problems:
            if problem.kind in ("unreadable", "size", "digest", "ids", "temporary"):
                (path / problem.path).unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path / problem.path, error) from error
    if any(problem.kind in ("line", "twice") for problem in problems):
        records = _read_lines(path)[1]
        lines = [json.dumps(records[index].to_json(), ensure_ascii=False) + "\n" for index in sorted(records)]
        atomic_write(path / MANIFEST, "".join(lines).encode())


def _clear_orphans(path: Path, records: Mapping[int, Record]) -> None:
    """Remove pictures named as a run names them which are of no image; files of other people stay."""
    for problem in _others(path, records):
        if problem.kind == "orphan" and _OWN.match(Path(problem.path).name):
            (path / problem.path).unlink(missing_ok=True)
