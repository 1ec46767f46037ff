"""The generalisation study: its arms and table, and (slow) a very small run of all of it."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from dgkit.data.crops import CropBox, crop
from dgkit.data.labelmap import read_label, write_label
from dgkit.diffusion.hub import embedded_model
from dgkit.world.write import write_role
from tests.benchmarks.scripts import BENCHMARKS, load_script

SCRIPT = BENCHMARKS / "studies" / "generalisation.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with load_script("studies/generalisation") as module:
        yield module


def row(arm: str, seed: int, what: str, miou: float) -> dict[str, object]:
    return {"arm": arm, "seed": seed, "set": what, "miou": miou}


def test_table_compares_seed_by_seed(script: ModuleType) -> None:
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
        (("--arms", "colour,renders"), "--arms lacks full"),
        (("--arms", "colour,full,renders", "--source", "gta=DIR"), "renders renders scenes of the city"),
        (("--arms", "colour,full", "--also", "photos=DIR"), "--also photos=DIR is not NAME=DIR; known names: gta, "),
        (("--arms", "colour,full", "--also", "acdc=DIR"), "--also acdc: already a target"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path), *options], capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr
    assert not any(tmp_path.iterdir())


def test_jobs_wait_for_their_dependencies_and_a_failure_stops_only_dependents(
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
    jobs = [script.Job(name, after, make, (name,)) for name, after in needs.items()]
    assert set(script.run_all(jobs, 1, 2)) == {"bad", "after bad", "lost"}
    assert made == ["first", "second", "last"]
    printed = capsys.readouterr().out
    assert "bad: no luck" in printed and "last: made last" in printed


def test_gains_are_taken_between_equal_seeds(script: ModuleType) -> None:
    rows = [row("colour", 0, "Avg5", 10.0), row("colour", 1, "Avg5", 30.0), row("full", 1, "Avg5", 33.0)]
    assert script.table(rows).splitlines()[-1] == "| generated | 33.0 | +3.0 |"


def test_renders_are_the_scenes_of_the_full_set_in_its_styles(script: ModuleType, tmp_path: Path) -> None:
    write_role(tmp_path / "source", "source", 2, 9000, height=64, workers=1)
    full, box = tmp_path / "generated" / "full", CropBox(8, 16, 48, 48)
    styles = ("snowy", "foggy")
    for number, style in enumerate(styles):
        name = f"{number + 1:05}"
        label = read_label(tmp_path / "source" / "labels" / f"{name}.png", "cityscapes_ids")
        write_label(full / "labels" / f"{number}_labelTrainIds.png", crop(label, box))
        record = {"id": str(number), "source": name, "style": style, "crop": [8, 16, 48, 48],
                  "image": f"images/{number}.png", "label": f"labels/{number}_labelTrainIds.png"}  # fmt: skip
        with (full / "manifest.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    study = script.Study(Namespace(work=tmp_path))
    study.render()
    made = tmp_path / "generated" / "renders"
    photographs = [np.asarray(Image.open(tmp_path / "source" / "images" / f"0000{n}.png"))[16:64, 8:56] for n in (1, 2)]
    for number, photograph in enumerate(photographs):
        image = np.asarray(Image.open(made / "images" / f"{number}.png"))
        assert image.shape == photograph.shape and not np.array_equal(image, photograph)  # another weather
        labels = [folder / "labels" / f"{number}_labelTrainIds.png" for folder in (full, made)]
        assert labels[0].read_bytes() == labels[1].read_bytes()
    write_label(full / "labels" / "1_labelTrainIds.png", np.zeros((48, 48), np.uint8))
    with pytest.raises(RuntimeError, match="rendered label map differs"):
        study.render()


@pytest.mark.slow
def test_whole_study(script: ModuleType, tmp_path: Path) -> None:
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
    # Nothing was trained twice: times and figures are those of the first run.
    assert all(figures[line["arm"], line["set"]] == (line["miou"], line["seconds"]) for line in rows)


def test_further_set_comes_last_with_the_mean_over_its_own_classes(script: ModuleType) -> None:
    entry = {
        "miou": 0.25,
        "iou": {"road": 0.5, "sky": 0.25, "train": 0.0},
        "confusion": [[8, 2, 0], [1, 4, 0], [0] * 3],
    }
    sets = {"camvid": {**entry, "conditions": {}}, "acdc": {**entry, "conditions": {"fog": {"miou": 0.1}}}}
    found = script.means({"sets": sets, "averages": {"Avg5": 0.2}}, ("camvid=DIR",))
    assert list(found.items()) == [("acdc", 0.25), ("acdc fog", 0.1), ("Avg5", 0.2), ("camvid", 0.375)]
