"""Tables of docs/results/presets.md: cost, speed and quality of the presets, and what their images are worth.

Four files of benchmarks/results are joined: presets.csv (evaluations and quality) and preset_leads.csv (ablation) of
studies/presets.py, preset_speed.csv of `dgkit bench generate --csv` (images an hour: the fastest engine of each preset
on the machine of the published schedule), and generalisation.csv (gain in Avg5 over the baseline, seed by seed). A cell
is empty if its file or figure is missing.
"""

from collections.abc import Mapping
from pathlib import Path

from generalisation_table import figure, gains
from generalisation_table import read as read_generalisation
from preset_cells import SETTINGS
from records import read_rows

from dgkit.bench.rows import BenchRow, latest, read
from dgkit.diffusion.presets import PRESETS
from dgkit.engines.runner import QUANTISED
from dgkit.markdown import markdown_table

HEAD = ("preset", "evaluations an image", "fewer", "images an hour", "times `official`", "agreement", "small classes",
        "Fréchet distance", "gain in Avg5")  # fmt: skip
ABLATION_HEAD = ("setting", "alone: evaluations", "agreement", "small classes", "`fast` without: evaluations",
                 "agreement", "small classes")  # fmt: skip
# Arms of generalisation.py by the preset that drew their images; `full` has the one that it was given.
FULL = "fast"
NAMES = [name for name, preset in PRESETS.items() if preset.adapter is None]  # others are for models with a LoRA
ARMS = {"full": FULL, "no-fusion": "one-pass", **{name: name for name in NAMES}}
AVERAGE = "Avg5"
Cells = Mapping[str, str]


def contents(root: Path) -> dict[str, str]:
    """Return the two tables of docs/results/presets.md."""
    results = root / "benchmarks" / "results"
    tables = {"presets": preset_table(results), "ablation": ablation_table(results)}
    return {f"docs/results/presets.md#{name}": f"\n{table}\n" if table else "" for name, table in tables.items()}


def preset_table(results: Path) -> str:
    """Return a line for each preset, from those of the four files that exist."""
    measured = by_cell(results / "presets.csv")
    speeds, gains = fastest(results / "preset_speed.csv"), gain(results / "generalisation.csv")
    official = speeds.get("official")
    lines = []
    for name in NAMES:
        cells, speed = measured.get(name, {}), speeds.get(name)
        lines.append((
            f"`{name}`", number(cells, "samples", ".3g"), number(cells, "fewer", ".1f"),
            f"{speed.images_per_hour:,.0f} ({method(speed)})" if speed else "",
            times(speed, official),
            quality(cells, "miou", name != "exact"), quality(cells, "small_miou", name != "exact"),
            number(cells, "frechet_distance", ".2f"), gains.get(name, ""),
        ))  # fmt: skip
    return markdown_table(HEAD, lines)


def ablation_table(results: Path) -> str:
    """Return each setting alone in ``exact`` and left out of ``fast``; empty if that was not measured."""
    measured = by_cell(results / "preset_leads.csv")
    if not measured:
        return ""

    def part(cell: str, metric: str) -> str:
        return quality(measured.get(cell, {}), metric, differs=cell not in ("exact", "fast"))

    lines = []
    pairs = {"`exact` and `fast` themselves": ("exact", "fast")}
    pairs |= {name: (name, f"fast without {name}") for name in SETTINGS}
    for title, cells in pairs.items():
        line = [title]
        for cell in cells:
            line += [number(measured.get(cell, {}), "samples", ".3g"), part(cell, "miou"), part(cell, "small_miou")]
        lines.append(line)
    return markdown_table(ABLATION_HEAD, lines)


def by_cell(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of presets.py by their cell; none if there is no file."""
    return {row["cell"]: row for row in read_rows(path)}


def fastest(path: Path) -> dict[str, BenchRow]:
    """Return the row of the fastest engine of ``dgkit generate`` by preset, all on one machine.

    Rows of int8 do not count, since the rest of the table was measured without it.
    """
    rows = latest(read(path)) if path.is_file() else []
    rows = [row for row in rows if row.subject == "generate" and row.images_per_hour and row.dtype not in QUANTISED]
    if not rows:
        return {}
    last = max((row for row in rows if row.engine == "official"), default=rows[-1], key=lambda row: row.run)
    found: dict[str, BenchRow] = {}
    for row in sorted(rows, key=lambda row: row.images_per_hour or 0):
        if machine(row) == machine(last):
            found[row.preset] = row
    return found


def method(row: BenchRow) -> str:
    return "as published" if row.engine == "official" else f"{row.engine}, {row.dtype}"


def times(row: BenchRow | None, official: BenchRow | None) -> str:
    """Return the speed-up over the published schedule, of the same run if that measured it."""
    if not row or not official:
        return ""
    return f"{row.x_official or (row.images_per_hour or 0) / (official.images_per_hour or 1):.1f}"


def machine(row: BenchRow) -> tuple[object, ...]:
    return row.gpu or row.cpu, row.threads, row.model


def gain(path: Path) -> dict[str, str]:
    """Return by preset the points of Avg5 over the baseline: mean and standard deviation over the seeds of both."""
    rows = read_generalisation(path)
    found = ((preset, figure(gains(rows, arm, AVERAGE), "+")) for arm, preset in ARMS.items())
    return {preset: text for preset, text in found if text}


def number(cells: Cells, key: str, form: str) -> str:
    """Return a figure without an exponent, empty if it was not measured."""
    value = cells.get(key)
    if not value:
        return ""
    return f"{float(value):.0f}" if form.endswith("g") and float(value) >= 100 else f"{float(value):{form}}"


def quality(cells: Cells, metric: str, differs: bool) -> str:
    """Return percent, and in brackets the difference from the base in points with its standard deviation."""
    if not cells.get(metric):
        return ""
    text = f"{100 * float(cells[metric]):.1f}"
    if differs and cells.get(f"d_{metric}"):
        text += f" ({float(cells[f'd_{metric}']):+.1f} ± {float(cells[f'd_{metric}_sd']):.1f})"
    return text
