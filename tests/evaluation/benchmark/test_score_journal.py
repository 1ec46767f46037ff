"""Scores are kept for pictures that are read as before, and only for those."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.data.samples import Sample
from dgkit.evaluation.benchmark.score_journal import ScoreJournal


def test_a_photograph_that_is_read_differently_is_scored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (4, 4)).save(tmp_path / "turned.png", exif=exif)
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    turned, plain = (
        Sample(name, tmp_path / "plain.png", tmp_path / f"{name}.png", "train_ids") for name in ("turned", "plain")
    )
    monkeypatch.setenv("DGKIT_EXIF", "ignore")
    journal = ScoreJournal(tmp_path, {})
    for sample in (turned, plain):
        journal.add("gta", sample, np.zeros((19, 20), np.int64))
    assert len(journal._lines["gta", "turned"]["files"]) == 6  # as dgkit wrote it before it read orientations
    monkeypatch.setenv("DGKIT_EXIF", "apply")
    again = ScoreJournal(tmp_path, {})
    assert again.matrix("gta", turned) is None and again.matrix("gta", plain) is not None


def test_a_changed_table_of_colours_is_scored_again(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    table = tmp_path / "colours.csv"
    table.write_text("road,0,0,0")
    sample = Sample("a", tmp_path / "a.png", tmp_path / "a.png", f"colours@{table}")
    journal = ScoreJournal(tmp_path, {})
    journal.add("pairs", sample, np.zeros((19, 20), np.int64))
    assert journal.matrix("pairs", sample) is not None
    table.write_text("ignore,0,0,0")
    assert journal.matrix("pairs", sample) is None
