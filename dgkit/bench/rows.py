"""The rows of a benchmark: their columns, and the CSV file they are appended to."""

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
    """One configuration. A cell is empty if it does not apply, or if ``error`` prevented it.

    ``run`` (UTC) is the same for all rows of one command. Subject ``ceiling`` is a peak rate of the device, engine
    ``official`` the published schedule, for which ``batch`` is that of its calls. ``method`` is ``measured``, or says
    how the row was extrapolated. ``batch``: samples per network call. ``images``: images per call, 0 for one network.
    ``calls``: timed calls; ``ms_median`` and ``ms_p95`` per call, ``ms_sample`` the median per sample, or per image if
    there are images. ``x_official`` and ``x_fp32``: speed-up per sample over the published schedule, and over torch in
    fp32 at the same batch. ``tflops``: 10^12 operations per second, by torch's count for the unoptimised networks, for
    images over all calls but those of the text encoder; ``share`` of the matmul ceiling in the same dtype. ``gbytes``:
    10^9 bytes read and written per second. ``parity``: relative L2 error of the outputs against torch in fp32; ``psnr``
    of the 8-bit images [dB]. ``rss_mib``: peak resident memory of the process, ``torch_mib`` peak of torch's allocator
    on the GPU, ``gpu_mib`` device memory in use by any allocator. ``build_s`` and ``build_rss_mib`` of the engine's
    build, the latter empty if another run built it; ``load_s`` until the first call is finished; ``file_mib`` on disk.
    ``outside``: share of the time spent outside the networks. ``load_average``: load of the machine in the minute
    before.
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
_TEXTS = frozenset(field.name for field in dataclasses.fields(BenchRow) if field.type is str)


def append(path: Path, rows: Iterable[BenchRow]) -> None:
    """Append rows to a CSV file; a new file gets a header.

    Raises OutputError if the file cannot be written or has other columns.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists() or path.stat().st_size == 0
        if not new:
            with path.open(newline="", encoding="utf-8") as file:
                if tuple(next(csv.reader(file), ())) != COLUMNS:
                    raise OutputError(f"{path} does not have the columns of this version", "use another file")
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            writer.writerows([_cell(getattr(row, name)) for name in COLUMNS] for row in rows)
    except OSError as error:
        raise output_error(path, error) from error


def read(path: Path) -> list[BenchRow]:
    """Return all rows of a CSV file that :func:`append` wrote; further columns are ignored.

    Raises InputError if the file cannot be read or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                raise InputError(
                    f"{path} lacks the columns {', '.join(lacking[:3])}", "use a file that dgkit bench --csv wrote"
                )
            return [BenchRow(**{name: _value(name, line[name]) for name in COLUMNS}) for line in reader]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "check the path") from error


def latest(rows: Iterable[BenchRow]) -> list[BenchRow]:
    """Return the row of the last run for each configuration, in the order of their first rows."""
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
