"""Table and picture of benchmarks/generalisation.py."""

import csv
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from generalisation_arms import ARMS, BASELINE

from dgkit.optional import require

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a CSV file that the benchmark wrote; none where there is no file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{**row, "seed": int(row["seed"]), "miou": float(row["miou"])} for row in csv.DictReader(file)]


def values(rows: list[Row], arm: str, what: str) -> dict[int, float]:
    """mIoU in percent of an arm on a set, by seed."""
    return {row["seed"]: row["miou"] for row in rows if (row["arm"], row["set"]) == (arm, what)}


def gains(rows: list[Row], arm: str, what: str) -> list[float]:
    """Points of mIoU over the baseline, of each seed that both have."""
    base = values(rows, BASELINE, what)
    return [value - base[seed] for seed, value in values(rows, arm, what).items() if seed in base]


def table(rows: list[Row]) -> str:
    """Mean and standard deviation over the seeds, and the gain in Avg5 over the baseline, seed by seed."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    sets = list(dict.fromkeys(row["set"] for row in rows if " " not in row["set"]))
    last = "Avg5" if "Avg5" in sets else sets[-1]
    lines = [["training set", *sets, f"gain in {last}"]]
    for arm in arms:
        gain = figure(gains(rows, arm, last), "+") if arm != BASELINE else ""
        lines.append([ARMS[arm].text, *(figure(values(rows, arm, what).values()) for what in sets), gain])
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figure(given: Iterable[float], sign: str = "") -> str:
    """Mean and standard deviation, percent."""
    found = list(given)
    if not found:
        return ""
    spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.fmean(found):{sign}.1f}{spread}"


def plot(rows: list[Row], path: Path) -> None:
    """Bars of the last mean, a dot for each seed."""
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
