"""The figures in the texts of README, home and results are those of the CSV files."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dgkit.bench.rows import BenchRow, latest, read
from tests.benchmarks.scripts import ROOT, load_script

RESULTS = ROOT / "benchmarks" / "results"
README, HOME, OVERVIEW = (ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "results" / "index.md")
DEFAULT = "fast:guidance_low=0.93"  # the preset of the embedded model
BEST, UPPER = "balance-filter", "renders"


@pytest.fixture(scope="module")
def build() -> Iterator[ModuleType]:
    with load_script("tables/build") as script:
        yield script


def check(figure: str, *pages: Path) -> None:
    texts = {str(page.relative_to(ROOT)): " ".join(page.read_text(encoding="utf-8").split()) for page in pages}
    missing = [page for page, text in texts.items() if figure not in text]
    assert missing == [], f"benchmarks/results says {figure}; correct these pages"


def row(path: Path, **wanted: object) -> BenchRow:
    return next(row for row in latest(read(path)) if all(getattr(row, key) == value for key, value in wanted.items()))


def hour(row: BenchRow) -> str:
    return f"{row.images_per_hour:,.0f}"


def test_images_an_hour_on_a_cpu(build: ModuleType) -> None:
    found = build.preset_table.fastest(RESULTS / "preset_speed.csv")
    check(f"{hour(found['fast'])} images an hour", README, HOME)
    for preset, pages in (("fast", (README, HOME, OVERVIEW)), ("turbo", (OVERVIEW,))):
        check(hour(found[preset]), *pages)
        check(f"{found[preset].x_official:.0f} times", *pages)
    exact = row(RESULTS / "bench.csv", subject="generate", preset="exact", engine="compile", dtype="bf16")
    check(f"{hour(exact)} | {exact.x_official:.1f} times", OVERVIEW)


def test_the_first_minute() -> None:
    page = ROOT / "docs" / "results" / "speed.md"
    with (RESULTS / "first_minute.csv").open(newline="", encoding="utf-8") as file:
        found = {line["what"]: line for line in csv.DictReader(file)}
    check(f"{float(found['start']['seconds']):.1f} s |", page)
    demo, hundred = found["demo"], found["hundred"]
    check(f"{float(demo['seconds']):.1f} s, first scene after {float(demo['first_s']):.1f} s", page)
    check(f"{float(hundred['seconds']):.1f} s, {int(hundred['images_per_hour']):,} images an hour", page)
    for engine in ("torch", "openvino"):
        fast = row(RESULTS / "fast_share.csv", engine=engine, preset=DEFAULT)
        check(hour(fast), page)
        check(f"{fast.x_official:.0f}", page)
        check(f"{fast.share:.2f}", page)


def test_one_pass_against_diffusers() -> None:
    with (RESULTS / "against_diffusers.csv").open(newline="", encoding="utf-8") as file:
        found = {line["subject"]: f"{float(line['ms_image']):,.0f}" for line in csv.DictReader(file)}
    for figure in found.values():
        check(f"| {figure} |", ROOT / "docs" / "results" / "speed.md")
    check(f"takes {found['dgkit:torch:bf16']} ms", README)
    check(f"takes {found['diffusers:bf16:compile']} ms", README)


def test_images_an_hour_on_a_gpu() -> None:
    path = RESULTS / "gpu_presets_h100.csv"
    small = max((row for row in read(path) if row.x_official), key=lambda row: row.x_official or 0)
    check(hour(small), README, HOME, OVERVIEW)
    check(f"{small.x_official:.0f} times", README, OVERVIEW)
    check(hour(row(path, model="random:sd15")), README, HOME, OVERVIEW, ROOT / "docs" / "start" / "tutorial.md")
    graph = {"subject": "sampler", "engine": "torch", "preset": "exact", "note": "CUDA graph", "batch": 64}
    exact = row(RESULTS / "gpu_check_h100.csv", **graph)
    check(f"{hour(exact)} | {exact.x_official:.0f} times", OVERVIEW)


def test_agreement_and_styles(build: ModuleType) -> None:
    (table,) = build.ideas_table.contents(ROOT).values()
    cells = [line.split(" | ") for line in table.splitlines() if " | " in line]
    agreement = next(line[2] for line in cells if line[0] == "| Labels")
    check(agreement, OVERVIEW)
    check(agreement.partition(" ")[0], README, HOME)
    mean, spread = (
        float(part) for part in next(line[2] for line in cells if "Style prompts" in line[0])[:-2].split("±")
    )
    check(f"{mean:.1f} ± {spread:.1f} %", README, OVERVIEW)
    fast = build.preset_table.by_cell(RESULTS / "presets.csv")["fast"]
    check(f"{float(fast['d_miou']):+.1f} ± {float(fast['d_miou_sd']):.1f}", README, OVERVIEW)


def test_gains_of_segmenters(build: ModuleType) -> None:
    study = build.generalisation_table
    rows = study.read(RESULTS / "generalisation.csv")
    base = study.BASELINE
    for arm in (base, BEST, UPPER):
        check(f"{study.figure(study.values(rows, arm, 'Avg5').values())} %", README)
    for arm in (BEST, UPPER):
        check(study.figure(study.gains(rows, arm, "Avg5"), "+"), OVERVIEW)
    check(f"{statistics.fmean(study.gains(rows, BEST, 'Avg5')):.1f} points", README, HOME)
    photographs = [statistics.fmean(study.values(rows, arm, "camvid").values()) for arm in (base, BEST)]
    check(f"{photographs[1] - photographs[0]:.1f} on photographs", README, HOME)
    check(f"{study.figure(study.values(rows, BEST, 'camvid').values())} %", OVERVIEW)
