"""Puts the figures of benchmarks/results/bench*.csv into README.md and docs/images/bench-*.svg.

Those of benchmarks/results/gpu_check*.csv go into README.md and docs/gpu.md.

    python benchmarks/readme_table.py            after dgkit bench ... --csv benchmarks/results/bench.csv
    python benchmarks/readme_table.py --check    exit code 1 where the files are not what the CSV gives

Of every model and device, each configuration is shown as the last run measured it.
"""

import argparse
import itertools
import re
import sys
from pathlib import Path

from gpu_table import sentence, tables

from dgkit.bench.bars import draw, markdown
from dgkit.bench.bench_config import CEILING
from dgkit.bench.rows import Row, latest, read

PACKAGES = {"ort": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",), "trt": ("tensorrt", "tensorrt-rtx")}
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
GPU = ROOT / "docs" / "gpu.md"
BLOCK = re.compile(r"(?<=<!-- bench -->\n).*?(?=<!-- /bench -->)", re.DOTALL)
GPU_BLOCK = re.compile(r"(?<=<!-- gpu -->\n).*?(?=<!-- /gpu -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        sys.exit(f"{README} has no place for the table: <!-- bench --> and <!-- /bench --> on lines of their own")
    parts = sections([row for path in sorted(RESULTS.glob("bench*.csv")) for row in read(path)])
    wanted = {path: picture for path, (picture, _) in parts.items()}
    block = "\n".join(["", *(table for _, table in parts.values()), ""]) if parts else ""
    wanted[README] = fill(BLOCK, text, block)
    checks = [path for path in sorted(RESULTS.glob("gpu_check*.csv")) if not path.stem.endswith("_steps")]
    measured = [latest(read(path)) for path in checks]
    wanted[README] = fill(GPU_BLOCK, wanted[README], "".join(map(sentence, measured)))
    if GPU.is_file():
        wanted[GPU] = fill(GPU_BLOCK, GPU.read_text(encoding="utf-8"), "".join(map(tables, measured)))
    stale = [path for path, content in wanted.items() if not path.is_file() or path.read_text("utf-8") != content]
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'differs' if given.check else 'written'}")
        if not given.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
    return 1 if given.check and stale else 0


def fill(place: re.Pattern[str], text: str, content: str) -> str:
    """``text`` with ``content`` in the place, as it stands."""
    return place.sub(lambda match: content, text)


def sections(rows: list[Row]) -> dict[Path, tuple[str, str]]:
    """For each model and device: the path of its picture, the picture, and its part of the README."""
    measured = [row for row in rows if row.subject != CEILING]
    found = {}
    for (model, device), group in itertools.groupby(sorted(measured, key=place), key=place):
        mine = latest(group)
        subjects = list(dict.fromkeys(row.subject for row in mine))
        shown = sorted(mine, key=lambda row: subjects.index(row.subject))
        path = ROOT / "docs" / "images" / f"bench-{re.sub('[^a-z0-9]+', '-', f'{model} {device}'.lower())}.svg"
        found[path] = draw(shown), part(model, shown, path)
    return found


def place(row: Row) -> tuple[str, str]:
    return row.model, row.gpu or "cpu"


def part(model: str, rows: list[Row], path: Path) -> str:
    """Conditions, table and picture."""
    last = max(rows, key=lambda row: row.run)
    load = max(row.load_average or 0.0 for row in rows)
    used = versions(last, {row.engine for row in rows})
    facts = [last.gpu or last.cpu, f"{last.threads} threads", used, f"commit {last.commit[:12]}", last.run[:10]]
    busy = f"; other work on the machine: load average up to {load:.1f}" if load > (last.threads or 1) + 0.5 else ""
    head = f"Model `{model}`: {', '.join(facts)}{busy}."
    picture = f"![Bars of the table above]({path.relative_to(ROOT)})\n"
    failed = [f"Without a figure: {row.label}: {row.error}.\n" for row in rows if not row.ms_sample]
    return "\n".join([head, "", markdown([row for row in rows if row.ms_sample]), *failed, picture])


def versions(row: Row, engines: set[str]) -> str:
    """Of PyTorch, and of the libraries behind the other engines."""
    words = row.versions.split()
    wanted = {"torch", *(package for engine in engines for package in PACKAGES.get(engine, ()))}
    return ", ".join(f"{name} {number}" for name, number in zip(words[::2], words[1::2], strict=True) if name in wanted)


if __name__ == "__main__":
    sys.exit(main())
