"""Subject ``eval`` of the benchmark: real evaluations of a small segmenter, in this process."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dgkit.bench import evaluation_speed as evaluation
from dgkit.bench.bench_config import BenchTask
from dgkit.bench.command import Finished, run_dgkit
from dgkit.bench.measure import work
from dgkit.bench.rows import COLUMNS
from dgkit.cli.app import app
from dgkit.errors import EngineError
from tests.segformers import save_narrow_segformer

PICTURES = 2


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> BenchTask:
    folder = tmp_path_factory.mktemp("eval")
    rng = np.random.default_rng(0)
    for name, shape in (("images", (64, 96, 3)), ("labels", (64, 96))):
        (folder / "set" / name).mkdir(parents=True)
        for number in range(PICTURES):
            end = ".png" if name == "images" else "_labelTrainIds.png"
            values = rng.integers(0, 256 if name == "images" else 19, shape, np.uint8)
            Image.fromarray(values).save(folder / "set" / name / f"{number}{end}")
    (folder / "references").mkdir()
    segmenter = save_narrow_segformer(folder / "segmenter")
    return BenchTask(
        kind="measure",
        subject="eval",
        segmenter=segmenter,
        on=f"dgkit={folder / 'set'}",
        protocol="whole",
        device="cpu",
        batches=(1, 2),
        largest=2,
        repeats=3,
        seconds=0.01,
        references=folder / "references",
    )


@pytest.fixture()
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were run, each in this process."""
    ran: list[list[str]] = []

    def run(words: Sequence[str], device: str, variables: Mapping[str, str] | None = None) -> Finished:
        ran.append(list(words))
        done = CliRunner().invoke(app, list(words))
        if done.exception is not None:
            raise done.exception
        return Finished(done.stdout, {"rss_mib": 7.0})

    monkeypatch.setattr(evaluation, "run_dgkit", run)
    return ran


def test_pictures_per_hour_and_difference_in_miou(task: BenchTask, runs: list[list[str]]) -> None:
    assert list(work(task.model_copy(update={"kind": "reference"}))) == [{}]
    assert list(work(task.model_copy(update={"kind": "reference"}))) == [{}] and len(runs) == 1  # the first run is kept
    one, two = work(task)
    assert len(runs) == 1 + 3 + 3 and [words[words.index("--batch") + 1] for words in runs[1:]] == ["1"] * 3 + ["2"] * 3
    for cells in (one, two):
        assert set(cells) <= set(COLUMNS) and cells["calls"] == 3 and cells["images"] == PICTURES
        assert cells["ms_sample"] == cells["ms_median"] / PICTURES and cells["rss_mib"] == 7.0
        assert cells["images_per_hour"] == pytest.approx(3.6e6 / cells["ms_sample"])
        assert cells["parity"] < 1e-3
    (path,) = task.references.iterdir() if task.references else ()
    path.write_text(json.dumps(json.loads(path.read_text()) + 0.25))
    (off, _) = work(task)
    assert off["parity"] == pytest.approx(0.25, abs=1e-3)


def test_each_batch_is_built_before_it_is_timed(task: BenchTask, runs: list[list[str]]) -> None:
    assert list(work(task.model_copy(update={"kind": "build"}))) == [{}]
    assert [words[words.index("--batch") + 1] for words in runs] == ["1", "2"]


def test_a_failing_batch_is_a_row_and_the_next_is_measured(
    task: BenchTask, runs: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = evaluation.run_dgkit

    def run(words: Sequence[str], *rest: object) -> Finished:
        if words[words.index("--batch") + 1] == "1":
            raise EngineError("no room")
        return real(words, "cpu")

    monkeypatch.setattr(evaluation, "run_dgkit", run)
    one, two = work(task)
    assert one["error"] == "no room" and "ms_median" not in one and two["calls"] == 3


def test_command_in_its_own_process(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"dgkit eval: .*{tmp_path.name}"):
        run_dgkit(
            ["eval", str(tmp_path / "none.onnx"), "--on", f"dgkit={tmp_path}", "--out", str(tmp_path / "o")], "cpu"
        )
    finished = run_dgkit(["--version"], "cpu")
    assert finished.printed.strip() and finished.memory["rss_mib"] > 1
