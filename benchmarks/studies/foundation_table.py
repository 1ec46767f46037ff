"""Tables of foundation.py and pretrained_encoder.py, for docs/guides/segmenters.md."""

import statistics
from pathlib import Path

from generalisation_arms import ARMS, BASELINE, FULL
from generalisation_table import figure, gains, read, values
from records import Row, read_rows

from dgkit.markdown import markdown_table

RANDOM = "mit_b0"  # the network without pretraining


def contents(root: Path) -> dict[str, str]:
    """Return both tables; none without its CSV file."""
    page, results = "docs/guides/segmenters.md", root / "benchmarks" / "results"
    curves, arms = read_rows(results / "pretrained_encoder.csv"), read(results / "foundation.csv")
    found = {"encoders": encoders(curves) if curves else "", "foundation": table(arms) if arms else ""}
    return {f"{page}#{name}": f"\n{text}\n" for name, text in found.items() if text}


def encoders(rows: list[Row]) -> str:
    """Return the last checkpoint of each network, and its mIoU over that of the network without pretraining."""
    last = {row["arm"]: row for row in rows}
    lines = [
        [
            row["network"],
            row["iteration"],
            f"{float(row['processor_seconds']):.0f}",
            f"{float(row['miou']):.1f}",
            "" if name == RANDOM else f"{float(row['miou']) / float(last[RANDOM]['miou']):.2f}",
        ]
        for name, row in last.items()
    ]
    head = ["network", "iterations", "seconds of one core", "mIoU, 11 classes", "times that of random weights"]
    return markdown_table(head, lines)


def table(rows: list[Row]) -> str:
    """Return the mIoU with colour augmentation of each network and protocol, and what the other arms add to it.

    Means and standard deviations over seeds, for the last set or mean of each protocol.
    """
    arms = list(dict.fromkeys(row["arm"] for row in rows if row["arm"] != BASELINE))
    lines = []
    for network, protocol in dict.fromkeys((row["network"], row["protocol"]) for row in rows):
        own = [row for row in rows if (row["network"], row["protocol"]) == (network, protocol)]
        for what in dict.fromkeys(row["set"] for row in own if " " not in row["set"]):
            added = [figure(gains(own, arm, what), "+") for arm in arms]
            lines.append([network, protocol, what, figure(values(own, BASELINE, what).values()), *added])
    return markdown_table(["network", "protocol", "set", ARMS[BASELINE].text, *(ARMS[arm].text for arm in arms)], lines)


def answer(rows: list[Row]) -> str:
    """Return one sentence per network: what a half of generated images adds, averaged over protocols and sets."""
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        points = [gain for what in dict.fromkeys(row["set"] for row in own if " " not in row["set"])
                  for gain in gains(own, FULL, what)]  # fmt: skip
        if points:
            lines.append(f"{network}: generated images add {statistics.fmean(points):+.1f} points of mIoU")
    return "\n".join(lines)
