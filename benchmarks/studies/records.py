"""Where the studies keep their results, the CSV files in it, and the options that most studies share."""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"
Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a CSV file as text; none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write a CSV file with ``columns``, by default all keys in the order in which they first occur."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        names = columns or list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def study_parser(text: str | None, work: str, results: Path = RESULTS) -> argparse.ArgumentParser:
    """Return a parser whose help is ``text``, with the folder WORK, described by ``work``, and ``--results``."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help=work)
    parser.add_argument("--results", type=Path, default=results, help="CSV file or folder for the figures")
    return parser
