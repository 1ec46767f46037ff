"""The tables of docs/results/presets.md join four CSV files, any of which may be missing."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from dgkit.bench.rows import BenchRow, append
from tests.benchmarks.scripts import load_script

PLAIN = BenchRow("2026-01-01T00:00:00+00:00", "generate", engine="official", dtype="fp32", batch=2, model="embedded",
            preset="official", images_per_hour=200.0, device="cpu", cpu="some CPU", threads=2)  # fmt: skip


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with load_script("tables/build") as build:
        yield build.preset_table


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def lines(table: str) -> dict[str, list[str]]:
    """Cells by the first of their line, head and rule left out."""
    found = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table.splitlines()[2:]]
    assert all(len(line) == table.splitlines()[0].count("|") - 1 for line in found)
    return {line[0].strip("`"): [cell.strip() for cell in line[1:]] for line in found}


def speeds(path: Path) -> None:
    quick = dataclasses.replace(PLAIN, engine="openvino", dtype="bf16", preset="fast", images_per_hour=4000.0)
    append(path, [
        PLAIN, quick,
        dataclasses.replace(quick, run="2026-01-02T00:00:00+00:00", images_per_hour=5000.0),  # measured again
        dataclasses.replace(quick, engine="torch", images_per_hour=3000.0),
        dataclasses.replace(quick, gpu="some GPU", images_per_hour=90_000.0),  # another machine
        dataclasses.replace(quick, preset="turbo", images_per_hour=None, error="killed"),
        dataclasses.replace(quick, subject="sampler", images_per_hour=9000.0),
        dataclasses.replace(quick, dtype="int8", images_per_hour=6000.0),
        dataclasses.replace(quick, preset="one-pass", images_per_hour=8000.0, x_official=41.5),  # in its own run
    ])  # fmt: skip


def gains(path: Path) -> None:
    found = {("colour", 0): 30.0, ("colour", 1): 32.0, ("full", 0): 34.0, ("full", 1): 38.0, ("turbo", 0): 29.5,
             ("turbo", 7): 99.0, ("no-swap", 0): 31.0}  # fmt: skip
    rows = [{"arm": arm, "seed": seed, "set": "Avg5", "miou": value} for (arm, seed), value in found.items()]
    write(path, [*rows, {"arm": "turbo", "seed": 0, "set": "acdc", "miou": 80.0}])


def test_missing_files_give_empty_cells(script: ModuleType, tmp_path: Path) -> None:
    found = lines(script.preset_table(tmp_path))
    assert list(found) == ["official", "exact", "one-pass", "fast", "turbo"]
    assert all(cells == [""] * 8 for cells in found.values())
    assert script.ablation_table(tmp_path) == ""


def test_every_column_comes_from_its_file(script: ModuleType, tmp_path: Path) -> None:
    exact = {"cell": "exact", "samples": 1040, "fewer": 1, "miou": 0.392453, "small_miou": 0.27, "d_miou": 0,
             "d_miou_sd": 0, "d_small_miou": 0, "d_small_miou_sd": 0, "frechet_distance": 1.192}  # fmt: skip
    fast = {**exact, "cell": "fast", "samples": 52.0469, "fewer": 19.98, "d_miou": 0.79, "d_miou_sd": 0.46,
            "d_small_miou": -0.13, "d_small_miou_sd": 0.8}  # fmt: skip
    write(tmp_path / "presets.csv", [exact, fast, {"cell": "2M 8 steps", "samples": 416}])
    found = lines(script.preset_table(tmp_path))
    assert found["exact"] == ["1040", "1.0", "", "", "39.2", "27.0", "1.19", ""]
    assert found["fast"] == ["52", "20.0", "", "", "39.2 (+0.8 ± 0.5)", "27.0 (-0.1 ± 0.8)", "1.19", ""]
    assert len(found) == 5
    speeds(tmp_path / "preset_speed.csv")
    found = lines(script.preset_table(tmp_path))
    assert found["official"][2:4] == ["200 (as published)", "1.0"]
    assert found["fast"][2:4] == ["5,000 (openvino, bf16)", "25.0"]
    assert found["one-pass"][2:4] == ["8,000 (openvino, bf16)", "41.5"]
    assert found["turbo"] == [""] * 8
    gains(tmp_path / "generalisation.csv")
    found = lines(script.preset_table(tmp_path))
    assert found["fast"][-1] == "+5.0 ± 1.4"  # +4 and +6
    assert found["turbo"][-1] == "-0.5"  # only the seed that the baseline has too
    assert found["exact"][-1] == found["one-pass"][-1] == ""


def test_speeds_need_the_published_schedule_for_a_ratio(script: ModuleType, tmp_path: Path) -> None:
    quick = dataclasses.replace(PLAIN, engine="ort", preset="exact", images_per_hour=300.0)
    append(tmp_path / "preset_speed.csv", [quick])
    assert lines(script.preset_table(tmp_path))["exact"][2:4] == ["300 (ort, fp32)", ""]


def test_each_setting_has_a_line(script: ModuleType, tmp_path: Path) -> None:
    scores = {"miou": 0.4, "small_miou": 0.3, "d_miou": -1.0, "d_miou_sd": 0.5, "d_small_miou": 2.0,
              "d_small_miou_sd": 1.0}  # fmt: skip
    write(tmp_path / "preset_leads.csv", [
        {"cell": "exact", "samples": 1040, **scores},
        {"cell": "late start", "samples": 540, **scores},
        {"cell": "fast", "samples": 52.05, **scores},
        {"cell": "fast without late start", "samples": 85.1},
    ])  # fmt: skip
    found = lines(script.ablation_table(tmp_path))
    both = "exact` and `fast` themselves"
    assert list(found) == [both, *script.SETTINGS]
    assert found[both] == ["1040", "40.0", "30.0", "52", "40.0", "30.0"]
    assert found["late start"] == ["540", "40.0 (-1.0 ± 0.5)", "30.0 (+2.0 ± 1.0)", "85.1", "", ""]
    assert found["smooth weights"] == [""] * 6
