"""The generalisation benchmark: its arms and table, and (slow) the whole of it as small as it gets."""

from __future__ import annotations

import csv
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dgkit.diffusion.hub import embedded_model

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "generalisation.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generalisation", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["generalisation"] = module  # dataclasses look there for the annotations
    spec.loader.exec_module(module)
    return module


def row(arm: str, seed: int, what: str, miou: float) -> dict[str, object]:
    return {"arm": arm, "seed": seed, "set": what, "miou": miou}


def test_the_table_compares_seed_by_seed(script: ModuleType) -> None:
    rows = [row("colour", 0, "Avg5", 10.0), row("colour", 1, "Avg5", 30.0), row("colour", 0, "acdc fog", 1.0),
            row("full", 1, "Avg5", 33.0), row("full", 0, "Avg5", 14.0)]  # fmt: skip
    lines = script.table(rows).splitlines()
    assert lines[0] == "| training set | Avg5 | gain in Avg5 |"
    assert lines[2:] == ["| source, colours disturbed | 20.0 ± 14.1 |  |", "| generated | 23.5 ± 13.4 | +3.5 ± 0.7 |"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--arms", "full,best"), "unknown arms best; allowed: source, colour"),
        (("--arms", "colour,no-swap"), "needs --unswapped MODEL"),
        (("--arms", "full"), "--arms lacks colour"),
        (("--arms", "colour,filter"), "--arms lacks full"),
        (("--arms", "colour,full", "--also", "photos=DIR"), "--also photos=DIR is not NAME=DIR; names: gta, "),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path), *options], capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr
    assert not any(tmp_path.iterdir())


def test_tasks_wait_for_what_they_need_and_one_that_fails_stops_those_alone(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []

    def make(name: str) -> str:
        if name == "bad":
            raise ValueError("no luck")
        made.append(name)
        return f"made {name}"

    needs = {"last": ("second", "first"), "lost": ("after bad",), "after bad": ("bad",), "second": ("first",),
             "first": (), "bad": ()}  # fmt: skip
    tasks = [script.Task(name, after, make, (name,)) for name, after in needs.items()]
    assert set(script.run_all(tasks, 1, 2)) == {"bad", "after bad", "lost"}
    assert made == ["first", "second", "last"]
    printed = capsys.readouterr().out
    assert "bad: no luck" in printed and "last: made last" in printed


@pytest.mark.slow
def test_the_whole_benchmark(script: ModuleType, tmp_path: Path) -> None:
    if importlib.util.find_spec("mmseg") is None:
        pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'")
    unswapped = tmp_path / "unswapped"
    shutil.copytree(embedded_model(), unswapped)
    small = ("--scenes", "6", "--targets", "2", "--generated", "4", "--seeds", "1", "--preset", "one-pass")
    recipe = ("--set", "train.steps=2", "--set", "train.batch=2", "--height", "128", "--set", "data.workers=0")
    command = [sys.executable, str(SCRIPT), str(tmp_path / "work"), *small, *recipe, "--device", "cpu",
               "--unswapped", str(unswapped), "--results", str(tmp_path / "results")]  # fmt: skip
    subprocess.run(command, check=True)
    with (tmp_path / "results" / "generalisation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {line["arm"] for line in rows} == set(script.ARMS)
    sets = {line["set"] for line in rows}
    assert {"cityscapes", "bdd100k", "mapillary", "acdc", "acdc fog", "dark_zurich", "Avg3", "Avg5"} <= sets
    assert (tmp_path / "results" / "generalisation.svg").exists()
    also = ("--also", f"dgkit={tmp_path / 'work' / 'generated' / 'full'}")
    again = subprocess.run([*command, *also], check=True, capture_output=True, text=True)
    assert "loss" in again.stdout  # the evaluations that were added
    with (tmp_path / "results" / "generalisation.csv").open(newline="") as file:
        added = list(csv.DictReader(file))
    figures = {(line["arm"], line["set"]): (line["miou"], line["seconds"]) for line in added}
    assert {what for _, what in figures} == sets | {"dgkit"}
    # Nothing was trained a second time: time and figures of every training are those of the first run.
    assert all(figures[line["arm"], line["set"]] == (line["miou"], line["seconds"]) for line in rows)


def test_a_set_besides_is_judged_by_the_classes_it_has_and_stands_last(script: ModuleType) -> None:
    entry = {
        "miou": 0.25,
        "iou": {"road": 0.5, "sky": 0.25, "train": 0.0},
        "confusion": [[8, 2, 0], [1, 4, 0], [0] * 3],
    }
    sets = {"camvid": {**entry, "conditions": {}}, "acdc": {**entry, "conditions": {"fog": {"miou": 0.1}}}}
    found = script.means({"sets": sets, "averages": {"Avg5": 0.2}}, ("camvid=DIR",))
    assert list(found.items()) == [("acdc", 0.25), ("acdc fog", 0.1), ("Avg5", 0.2), ("camvid", 0.375)]
