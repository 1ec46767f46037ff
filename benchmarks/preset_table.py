"""Puts what was measured of the presets into the tables of docs/presets.md: cost, speed, quality, and what it is worth.

    python benchmarks/preset_table.py            after any of presets.py, dgkit bench generate and generalisation.py
    python benchmarks/preset_table.py --check    exit code 1 where the page is not what the CSV files give

Joins four files of benchmarks/results: presets.csv (evaluations and quality) and preset_leads.csv (each lead alone) of
presets.py, preset_speed.csv of `dgkit bench generate --csv` (images an hour, the fastest engine of each preset on the
machine of the published schedule), and generalisation.csv (gain in Avg5 over the baseline, seed by seed). Where a file
or a figure is not there, a cell stays empty.
"""

import argparse
import csv
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from generalisation_table import figure, gains
from generalisation_table import read as read_generalisation
from preset_cells import LEADS

from dgkit.bench.rows import Row, latest, read
from dgkit.diffusion.presets import PRESETS
from dgkit.engines.runner import QUANTISED

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "presets.md"
HEAD = ("preset", "evaluations an image", "fewer", "images an hour", "times `official`", "agreement", "small classes",
        "Fréchet distance", "gain in Avg5")  # fmt: skip
LEADS_HEAD = ("lead", "alone: evaluations", "agreement", "small classes", "`fast` without: evaluations", "agreement",
              "small classes")  # fmt: skip
# Arms of generalisation.py by the preset that drew their images; `full` has the one that it was given.
FULL = "fast"
ARMS = {"full": FULL, "no-fusion": "one-pass", **{name: name for name in PRESETS}}
AVERAGE = "Avg5"
Cells = Mapping[str, str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    wanted = fill(text, {"presets": preset_table(RESULTS), "leads": lead_table(RESULTS)})
    if wanted == text:
        return 0
    print(f"{PAGE.relative_to(ROOT)} {'differs' if given.check else 'written'}")
    if not given.check:
        PAGE.write_text(wanted, encoding="utf-8")
    return 1 if given.check else 0


def fill(text: str, tables: Mapping[str, str]) -> str:
    """``text`` with each table between its marks; SystemExit where marks are missing."""
    for name, table in tables.items():
        place = re.search(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", text, re.DOTALL)
        if not place:
            sys.exit(f"{PAGE} has no place for the table: <!-- {name} --> and <!-- /{name} --> on lines of their own")
        text = text[: place.start()] + (f"\n{table}\n" if table else "") + text[place.end() :]
    return text


def preset_table(results: Path) -> str:
    """One line for each preset, of the four files that are there."""
    measured = by_cell(results / "presets.csv")
    speeds, gains = fastest(results / "preset_speed.csv"), gain(results / "generalisation.csv")
    official = speeds.get("official")
    lines = [HEAD, ("---",) * len(HEAD)]
    for name in PRESETS:
        cells, speed = measured.get(name, {}), speeds.get(name)
        lines.append((
            f"`{name}`", number(cells, "samples", ".3g"), number(cells, "fewer", ".1f"),
            f"{speed.images_per_hour:,.0f} ({method(speed)})" if speed else "",
            times(speed, official),
            quality(cells, "miou", name != "exact"), quality(cells, "small_miou", name != "exact"),
            number(cells, "frechet_distance", ".2f"), gains.get(name, ""),
        ))  # fmt: skip
    return markdown(lines)


def lead_table(results: Path) -> str:
    """Each lead alone in ``exact`` and left out of ``fast``; empty where that was not measured."""
    measured = by_cell(results / "preset_leads.csv")
    if not measured:
        return ""

    def part(cell: str, metric: str) -> str:
        return quality(measured.get(cell, {}), metric, differs=cell not in ("exact", "fast"))

    lines = [LEADS_HEAD, ("---",) * len(LEADS_HEAD)]
    pairs = {"`exact` and `fast` themselves": ("exact", "fast")}
    pairs |= {name: (name, f"fast without {name}") for name in LEADS}
    for title, cells in pairs.items():
        line = [title]
        for cell in cells:
            line += [number(measured.get(cell, {}), "samples", ".3g"), part(cell, "miou"), part(cell, "small_miou")]
        lines.append(tuple(line))
    return markdown(lines)


def by_cell(path: Path) -> dict[str, dict[str, str]]:
    """Rows of presets.py by their cell, none where there is no file."""
    return {row["cell"]: row for row in lines_of(path)}


def lines_of(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fastest(path: Path) -> dict[str, Row]:
    """The row of the fastest engine of ``dgkit generate`` by preset, all on one machine. Without int8, as agreement and
    the rest of the table were measured without."""
    rows = latest(read(path)) if path.is_file() else []
    rows = [row for row in rows if row.subject == "generate" and row.images_per_hour and row.dtype not in QUANTISED]
    if not rows:
        return {}
    last = max((row for row in rows if row.engine == "official"), default=rows[-1], key=lambda row: row.run)
    found: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row.images_per_hour or 0):
        if machine(row) == machine(last):
            found[row.preset] = row
    return found


def method(row: Row) -> str:
    return "as published" if row.engine == "official" else f"{row.engine}, {row.dtype}"


def times(row: Row | None, official: Row | None) -> str:
    """How many times as fast as the published schedule, in the same run where that has it."""
    if not row or not official:
        return ""
    return f"{row.x_official or (row.images_per_hour or 0) / (official.images_per_hour or 1):.1f}"


def machine(row: Row) -> tuple[object, ...]:
    return row.gpu or row.cpu, row.threads, row.model


def gain(path: Path) -> dict[str, str]:
    """By preset: points of Avg5 over the baseline, the mean and standard deviation over seeds that both have."""
    rows = read_generalisation(path)
    found = ((preset, figure(gains(rows, arm, AVERAGE), "+")) for arm, preset in ARMS.items())
    return {preset: text for preset, text in found if text}


def number(cells: Cells, key: str, form: str) -> str:
    """A figure, empty where it was not measured; no exponents."""
    value = cells.get(key)
    if not value:
        return ""
    return f"{float(value):.0f}" if form.endswith("g") and float(value) >= 100 else f"{float(value):{form}}"


def quality(cells: Cells, metric: str, differs: bool) -> str:
    """Percent, and in brackets the difference from the base in points with its standard deviation."""
    if not cells.get(metric):
        return ""
    text = f"{100 * float(cells[metric]):.1f}"
    if differs and cells.get(f"d_{metric}"):
        text += f" ({float(cells[f'd_{metric}']):+.1f} ± {float(cells[f'd_{metric}_sd']):.1f})"
    return text


def markdown(lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
