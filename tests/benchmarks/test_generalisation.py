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
def test_the_whole_benchmark(tmp_path: Path) -> None:
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
    assert len({line["arm"] for line in rows}) == 8
    sets = {line["set"] for line in rows}
    assert {"cityscapes", "bdd100k", "mapillary", "acdc", "acdc fog", "dark_zurich", "Avg3", "Avg5"} <= sets
    assert (tmp_path / "results" / "generalisation.svg").exists()
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "(1 of" not in again.stdout  # nothing was trained a second time
