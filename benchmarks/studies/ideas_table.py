"""Table of ideas.py, for results/ideas.md and docs/results/ideas.md."""

import statistics
from pathlib import Path

from records import Row, read_rows

from dgkit.markdown import markdown_table

RAREST = 6  # number of the rarest classes whose pixels count together


def contents(root: Path) -> dict[str, str]:
    """Return the table of docs/results/ideas.md, empty without a CSV file."""
    rows = [{**row, "value": float(row["value"])} for row in read_rows(root / "benchmarks" / "results" / "ideas.csv")]
    return {"docs/results/ideas.md#ideas": f"\n{table(rows)}\n" if rows else ""}


def table(rows: list[Row]) -> str:
    """Return the table of the ideas: mean and standard deviation over the seeds."""

    def values(cell: str, metric: str) -> list[float]:
        return [r["value"] for r in rows if r["cell"] == cell and r["metric"] == metric]

    def pairs(metric: str, first: str, second: str) -> list[tuple[float, float]]:
        return list(zip(values(first, metric), values(second, metric), strict=True))

    accuracy = pairs("style_accuracy", "swapped", "unswapped")
    lines = [
        ("Labels", "agreement (mIoU), generated over paired renders of the same scenes and styles",
         figure(values("swapped", "relative_miou")), ">= 0.75"),
        ("Labels, two passes", "the same, two passes", figure(values("two-pass", "relative_miou")), ">= 0.75"),
        ("Style prompts", "style recognised", figure(values("swapped", "style_accuracy"), 100, " %"), ">= 85 %"),
        ("Style swap", "style recognised, swapped over unswapped",
         figure([a / max(b, 1e-9) for a, b in accuracy]), ">= 2"),
        ("Style swap", "agreement lost by swapping, mIoU points",
         figure([b - a for a, b in pairs("miou", "swapped", "unswapped")], 100), "<= 5"),
        ("Latent fusion", "IoU of small classes, two passes minus one, points",
         figure([a - b for a, b in pairs("small_miou", "two-pass", "one-pass")], 100), ">= 5"),
        *(
            ("Rare class generation", f"pixel share of the {RAREST} rarest classes over uniform crops, {what}",
             figure([a / b for a, b in pairs(f"rarest_share_zoom{zoom}", "rare", "uniform")]), ">= 3")
            for zoom, what in ((1, "crops of half a scene"), (2, "crops of an eighth, as in GTA5"))
        ),
    ]  # fmt: skip
    return markdown_table(("idea", "figure", "measured", "target"), lines)


def figure(values: list[float], factor: float = 1.0, unit: str = "") -> str:
    scaled = [value * factor for value in values]
    spread = f" ± {statistics.stdev(scaled):.2f}" if len(scaled) > 1 else ""
    return f"{statistics.fmean(scaled):.2f}{spread}{unit}"
