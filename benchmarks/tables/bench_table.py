"""Tables and pictures of ``dgkit bench`` for docs/results/speed.md, from results/bench*.csv.

Each configuration of a model on a device is shown as its last run measured it.
"""

import itertools
import re
from pathlib import Path

from dgkit.bench.bars import draw, markdown
from dgkit.bench.bench_config import CEILING
from dgkit.bench.rows import BenchRow, latest, read

PACKAGES = {"ort": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",), "trt": ("tensorrt", "tensorrt-rtx")}


def contents(root: Path) -> dict[str, str]:
    """Return the part of docs/results/speed.md, and a picture for each model and device."""
    files = sorted((root / "benchmarks" / "results").glob("bench*.csv"))
    rows = [row for path in files for row in read(path) if row.subject != CEILING]
    found, parts = {}, list[str]()
    for (model, device), group in itertools.groupby(sorted(rows, key=machine), key=machine):
        last = latest(group)
        subjects = list(dict.fromkeys(row.subject for row in last))
        shown = sorted(last, key=lambda row: subjects.index(row.subject))
        picture = f"images/bench-{re.sub('[^a-z0-9]+', '-', f'{model} {device}'.lower())}.svg"
        found[f"docs/{picture}"] = draw(shown)
        parts.append(part(model, shown, picture))
    return {**found, "docs/results/speed.md#bench": "\n".join(["", *parts, ""]) if parts else ""}


def machine(row: BenchRow) -> tuple[str, str]:
    """Return what rows of one table share."""
    return row.model, row.gpu or "cpu"


def part(model: str, rows: list[BenchRow], picture: str) -> str:
    """Return conditions, table and picture of one model on one device."""
    last = max(rows, key=lambda row: row.run)
    load = max(row.load_average or 0.0 for row in rows)
    used = versions(last, {row.engine for row in rows})
    facts = [last.gpu or last.cpu, f"{last.threads} threads", used, f"commit {last.commit[:12]}", last.run[:10]]
    busy = f"; other work on the machine: load average up to {load:.1f}" if load > (last.threads or 1) + 0.5 else ""
    head = f"Model `{model}`: {', '.join(facts)}{busy}."
    failed = [f"Without a figure: {row.label}: {row.error}.\n" for row in rows if not row.ms_sample]
    table = markdown([row for row in rows if row.ms_sample])
    return "\n".join([head, "", table, *failed, f"![Bars of the table above](../{picture})\n"])


def versions(row: BenchRow, engines: set[str]) -> str:
    """Return the versions of PyTorch and of the libraries behind ``engines``."""
    words = row.versions.split()
    wanted = {"torch", *(package for engine in engines for package in PACKAGES.get(engine, ()))}
    return ", ".join(f"{name} {number}" for name, number in zip(words[::2], words[1::2], strict=True) if name in wanted)
