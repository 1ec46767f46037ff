"""Table and picture of generalisation.py, for results/generalisation.* and docs/results/generalisation.md."""

import statistics
from collections.abc import Iterable
from pathlib import Path

from generalisation_arms import ARMS, BASELINE
from records import Row, read_rows

from dgkit.markdown import markdown_table
from dgkit.optional import require


def contents(root: Path) -> dict[str, str]:
    """Return the table of docs/results/generalisation.md, empty without a CSV file."""
    rows = read(root / "benchmarks" / "results" / "generalisation.csv")
    return {"docs/results/generalisation.md#generalisation": f"\n{table(rows)}\n" if rows else ""}


def read(path: Path) -> list[Row]:
    """Return the rows of a CSV file that the study wrote; none if there is no file."""
    return [{**row, "seed": int(row["seed"]), "miou": float(row["miou"])} for row in read_rows(path)]


def values(rows: list[Row], arm: str, what: str) -> dict[int, float]:
    """Return the mIoU in percent of an arm on a set, by seed."""
    return {row["seed"]: row["miou"] for row in rows if (row["arm"], row["set"]) == (arm, what)}


def gains(rows: list[Row], arm: str, what: str) -> list[float]:
    """Return the points of mIoU over the baseline, for each seed that both have."""
    base = values(rows, BASELINE, what)
    return [value - base[seed] for seed, value in values(rows, arm, what).items() if seed in base]


def table(rows: list[Row]) -> str:
    """Return mean and standard deviation over the seeds, and of the gain in Avg5 over the baseline by seed."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    sets = list(dict.fromkeys(row["set"] for row in rows if " " not in row["set"]))
    last = "Avg5" if "Avg5" in sets else sets[-1]
    lines = []
    for arm in arms:
        gain = figure(gains(rows, arm, last), "+") if arm != BASELINE else ""
        lines.append([ARMS[arm].text, *(figure(values(rows, arm, what).values()) for what in sets), gain])
    return markdown_table(["training set", *sets, f"gain in {last}"], lines)


def figure(given: Iterable[float], sign: str = "") -> str:
    """Return mean and standard deviation as text, in percent; empty without values."""
    found = list(given)
    if not found:
        return ""
    spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.fmean(found):{sign}.1f}{spread}"


def plot(rows: list[Row], path: Path) -> None:
    """Draw a bar for the last mean of each arm and a dot for each seed; SVG."""
    require("matplotlib", "seg").use("svg")
    pyplot = require("matplotlib.pyplot", "seg")
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    what = next(name for name in ("Avg5", "Avg3", rows[-1]["set"]) if values(rows, arms[0], name))
    drawn, axes = pyplot.subplots(figsize=(7.5, 0.5 * len(arms) + 1))
    for place, arm in enumerate(arms):
        found = list(values(rows, arm, what).values())
        axes.barh(place, statistics.fmean(found), color="#54a24b" if ARMS[arm].generated is not None else "#8c8c8c")
        axes.plot(found, [place] * len(found), "o", color="#1a1a1a", markersize=4)
    axes.set_yticks(range(len(arms)), [ARMS[arm].text for arm in arms])
    axes.invert_yaxis()
    axes.set_xlabel(f"mIoU [%], {what}; dots are seeds")
    drawn.tight_layout()
    drawn.savefig(path, metadata={"Date": None})
