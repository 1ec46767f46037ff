"""A table of jobs: a CSV file in which each row is one image."""

import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dgkit.data.datasets import label_files
from dgkit.data.samples import Dataset
from dgkit.errors import InputError, one_line
from dgkit.files import read_file, user_path
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

COLUMNS = ("label", "prompt", "style", "seed")
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class JobRow:
    """One image: the number of its label map in the data set of the table; None for values that the row leaves open.

    ``line`` is its line in the file.
    """

    sample: int
    prompt: str | None
    style: str | None
    seed: int | None
    line: int


@dataclass(frozen=True)
class JobTable:
    """The rows of a file in its order, the distinct label maps that they name, and the SHA-256 of the file."""

    rows: tuple[JobRow, ...]
    dataset: Dataset
    digest: str


def read_jobs(path: Path, encoding: str | None = None, taxonomy: Taxonomy = CITYSCAPES19) -> JobTable:
    """Read a CSV file with the column ``label``, and optionally ``prompt``, ``style`` and ``seed``.

    Labels are paths relative to the folder of the file, of maps in ``encoding`` of ``taxonomy``. Empty cells leave a
    value open. Styles are not checked. Raises InputError naming the line for a file that is not such a table,
    UsageError for an unknown encoding.
    """
    try:
        data = read_file(path, MAX_BYTES)
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), restkey="", strict=True)
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        lines = [(reader.line_num, line) for line in reader if any(line.values())]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}", "give a CSV file with the column label") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file: {one_line(str(error))}", "save it as CSV in UTF-8") from error
    _check_columns(path, names)
    if not lines:
        raise InputError(f"{path} has no rows", "write one line per image below the names of the columns")
    files: dict[Path, int] = {}
    rows = tuple(_row(path, number, line, files) for number, line in lines)
    return JobTable(rows, label_files(path.parent, list(files), encoding, taxonomy), hashlib.sha256(data).hexdigest())


def _check_columns(path: Path, names: list[str]) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if unknown or "label" not in names or len(set(names)) < len(names):
        raise InputError(
            f"{path} has the columns {one_line(', '.join(names)) or 'none'}; known: {', '.join(COLUMNS)}, each once",
            f"begin the file with the line {','.join(COLUMNS)}",
        )


def _row(path: Path, number: int, line: Mapping[str, str | None], files: dict[Path, int]) -> JobRow:
    label, prompt, style, seed = ((line.get(name) or "").strip() for name in COLUMNS)
    where = f"{path}, line {number}"
    if "" in line or not label:
        problem = "more cells than columns" if "" in line else "no label"
        raise InputError(f"{where}: {problem}", 'quote a prompt with commas: "road car, in snowy weather"')
    if seed and not (seed.isdecimal() and len(seed) < 20 and int(seed) < 2**63):
        raise InputError(f"{where}: seed {one_line(seed, 40)!r}; allowed: 0 to 2**63 - 1", "write a whole number")
    file = path.parent / user_path(label)
    if not file.is_file():
        raise InputError(f"{where}: {file}: no such file", f"labels are relative to {path.parent}")
    sample = files.setdefault(file, len(files))
    return JobRow(sample, prompt or None, style or None, int(seed) if seed else None, number)
