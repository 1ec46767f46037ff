"""The rows of a benchmark: their columns, and the CSV file they are added to."""

import csv
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgkit.errors import InputError, OutputError
from dgkit.files import output_error


@dataclass(frozen=True)
class BenchRow:
    """One configuration. An empty cell: does not apply, or was not reached because of ``error``.

    ``run`` (UTC) is the same for all rows of one command. ``subject`` ``ceiling`` is what the device can do at most,
    ``engine`` ``official`` the published schedule, for which ``batch`` is that of its calls. ``method``: ``measured``,
    or how it was extrapolated. ``batch``: samples of a network call. ``images``: images of a call, 0 for one network.
    ``calls`` timed calls; ``ms_median`` and ``ms_p95`` of a call, ``ms_sample`` the median by sample, by image where
    there are images. ``x_official`` and ``x_fp32``: time of a sample of the published schedule, and of torch in fp32 at
    the same batch, over that of this row. ``tflops``: 10^12 operations a second that the outputs need by torch's own
    count in the plain network; ``share`` of the matmul ceiling in the same dtype. ``gbytes``: 10^9 bytes read and
    written a second. ``parity``: relative L2 error of the outputs against torch in fp32; ``psnr`` of the 8-bit images
    [dB]. ``rss_mib`` peak resident memory of the process, ``torch_mib`` peak of torch's allocator on the GPU,
    ``gpu_mib`` device memory taken, whoever allocated it. ``build_s``, ``build_rss_mib`` as when the engine was built,
    the latter empty where that was in another run; ``load_s`` until its first call is over; ``file_mib`` on disk.
    ``outside``: share of the time that is spent outside the networks. ``load_average``: processes that wanted to run in
    the minute before.
    """

    run: str
    subject: str
    network: str = ""
    engine: str = ""
    dtype: str = ""
    batch: int = 0
    model: str = ""
    preset: str = ""
    steps: int | None = None
    images: int = 0
    method: str = "measured"
    calls: int | None = None
    ms_median: float | None = None
    ms_p95: float | None = None
    ms_sample: float | None = None
    images_per_hour: float | None = None
    x_official: float | None = None
    x_fp32: float | None = None
    tflops: float | None = None
    share: float | None = None
    gbytes: float | None = None
    parity: float | None = None
    psnr: float | None = None
    rss_mib: float | None = None
    torch_mib: float | None = None
    gpu_mib: float | None = None
    build_s: float | None = None
    build_rss_mib: float | None = None
    load_s: float | None = None
    file_mib: float | None = None
    outside: float | None = None
    error: str = ""
    note: str = ""
    load_average: float | None = None
    device: str = ""
    gpu: str = ""
    driver: str = ""
    cpu: str = ""
    threads: int | None = None
    python: str = ""
    versions: str = ""
    dgkit: str = ""
    commit: str = ""

    @property
    def label(self) -> str:
        """``subject engine:dtype, batch N``."""
        return f"{self.subject} {self.engine}:{self.dtype}, batch {self.batch}"


COLUMNS = tuple(field.name for field in dataclasses.fields(BenchRow))
_INTS = frozenset({"batch", "steps", "images", "calls", "threads"})
_CONFIGURATION = (
    "subject", "network", "engine", "dtype", "batch", "model", "preset", "steps", "note", "device", "gpu", "cpu",
    "threads",
)  # fmt: skip
_TEXTS = frozenset(
    [
        "run",
        "subject",
        "network",
        "engine",
        "dtype",
        "model",
        "preset",
        "method",
        "error",
        "note",
        "device",
        "gpu",
        "driver",
        "cpu",
        "python",
        "versions",
        "dgkit",
        "commit",
    ]
)


def append(path: Path, rows: Iterable[BenchRow]) -> None:
    """Add rows to a CSV file, which is made with its header where there is none.

    OutputError where the file cannot be written or has other columns.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists() or path.stat().st_size == 0
        if not new:
            with open(path, newline="", encoding="utf-8") as file:
                if tuple(next(csv.reader(file), ())) != COLUMNS:
                    raise OutputError(f"{path} has other columns than this version writes", "give another file")
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            writer.writerows([_cell(getattr(row, name)) for name in COLUMNS] for row in rows)
    except OSError as error:
        raise output_error(path, error) from error


def read(path: Path) -> list[BenchRow]:
    """All rows of a CSV file that :func:`append` wrote; columns that others have added to it are left out.

    InputError where it cannot be read or lacks a column.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                raise InputError(f"{path} lacks the columns {', '.join(lacking[:3])}", "give a file that bench wrote")
            return [BenchRow(**{name: _value(name, line[name]) for name in COLUMNS}) for line in reader]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "check the path") from error


def latest(rows: Iterable[BenchRow]) -> list[BenchRow]:
    """Of rows of equal configuration the one of the last run, in the order in which the configurations first come."""
    found: dict[tuple[Any, ...], BenchRow] = {}
    for row in rows:
        key = tuple(getattr(row, name) for name in _CONFIGURATION)
        if key not in found or row.run >= found[key].run:
            found[key] = row
    return list(found.values())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else " ".join(str(value).split())


def _value(name: str, cell: str) -> Any:
    if name in _TEXTS:
        return cell
    if cell == "":
        return None
    return int(cell) if name in _INTS else float(cell)
