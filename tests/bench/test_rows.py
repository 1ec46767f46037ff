"""Rows survive the CSV file, and other files are refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from dgkit.bench.rows import COLUMNS, BenchRow, append, latest, read
from dgkit.errors import InputError, OutputError

ROW = BenchRow(
    "2026-01-01T00:00:00+00:00", "denoiser", "denoiser", "torch", "bf16", 2, "random:tiny", calls=7, ms_median=1.25,
    ms_sample=0.625, parity=0.00123, error="first line\nsecond, with a comma", threads=2, versions="torch 2.0 onnx 1.0",
)  # fmt: skip


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.csv"
    append(path, [ROW])
    append(path, [BenchRow("2026-01-02T00:00:00+00:00", "vae", steps=3)])
    first, second = read(path)
    assert first == BenchRow(**{**ROW.__dict__, "error": "first line second, with a comma"})
    assert (second.subject, second.steps, second.ms_median, second.batch, second.error) == ("vae", 3, None, 0, "")
    with open(path, newline="") as file:
        lines = list(csv.reader(file))
    assert tuple(lines[0]) == COLUMNS and len(lines) == 3
    assert lines[1][COLUMNS.index("ms_sample")] == "0.625"


def test_further_columns_are_ignored(tmp_path: Path) -> None:
    append(tmp_path / "rows.csv", [ROW])
    head, line = (tmp_path / "rows.csv").read_text().splitlines()
    (tmp_path / "more.csv").write_text(f"step,{head}\neager,{line}\n")
    assert read(tmp_path / "more.csv") == read(tmp_path / "rows.csv")


def test_latest_row_of_each_configuration() -> None:
    again = BenchRow(**{**ROW.__dict__, "run": "2026-01-03T00:00:00+00:00", "ms_sample": 0.5})
    other = BenchRow(**{**ROW.__dict__, "note": "busy"})
    assert latest([ROW, other, again]) == [again, other] == latest([again, other, ROW])


def test_file_with_other_columns_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(OutputError, match="does not have the columns of this version"):
        append(path, [ROW])
    with pytest.raises(InputError, match="lacks the columns run, subject, network"):
        read(path)
    assert path.read_text() == "a,b\n1,2\n"


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path / "absent.csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        append(tmp_path / "file" / "rows.csv", [ROW])
