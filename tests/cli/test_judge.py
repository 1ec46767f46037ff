"""``dgkit train judge`` through the real command line; the training itself is tested with its module."""

import json
from pathlib import Path
from typing import Any

import pytest

from dgkit.cli.app import main
from dgkit.config import read_recipe
from dgkit.training.judge.judge_recipe import JudgeRecipe

pytest.importorskip("accelerate")
FIGURES: dict[str, Any] = {
    "segmenter": {"source": {"miou": 0.5, "small_miou": 0.25}, "night": {"miou": 0.125, "small_miou": None}},
    "styles": {"accuracy": 1.0},
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, JudgeRecipe]]:
    """Record the trainings that the command starts, without running them."""
    from dgkit.training.judge import judge_training as judge

    calls: list[tuple[Path, JudgeRecipe]] = []

    def run(training: judge.JudgeTraining) -> dict[str, object]:
        calls.append((training.work, training.recipe))
        assert training.progress is not None
        for role in training.roles:
            for part in ("1", "2", "-unseen"):
                training.progress(f"scenes/{role}{part}", 1, 2)
        training.progress("segmenter", 1, 2, "loss 0.5000")
        training.progress("styles", 1, 2, "loss 0.5000")
        return FIGURES

    monkeypatch.setattr(judge.JudgeTraining, "run", run)
    return calls


def test_recipe_and_single_values(
    tmp_path: Path, calls: list[tuple[Path, JudgeRecipe]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text("unseen: 7\nsegmenter: {steps: 5}\n")
    command = ["train", "judge", str(tmp_path / "j"), "--recipe", str(tmp_path / "r.yaml"), "--set", "styles.batch=3"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == FIGURES
    work, recipe = calls[0]
    assert work == tmp_path / "j" and (recipe.unseen, recipe.segmenter.steps, recipe.styles.batch) == (7, 5, 3)


def test_photographs_instead_of_the_city(tmp_path: Path, calls: list[tuple[Path, JudgeRecipe]]) -> None:
    assert main(["train", "judge", str(tmp_path), "--real", "camvid=data", "--set", "segmenter.steps=5"]) == 0
    recipe = calls[0][1]
    assert (recipe.real, recipe.segmenter.steps, recipe.segmenter.encoder) == ("camvid=data", 5, "efficientnet_lite0")


def test_figures_for_people(
    tmp_path: Path, calls: list[tuple[Path, JudgeRecipe]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "judge", str(tmp_path)]) == 0
    text = capsys.readouterr().err
    assert "unseen source: mIoU 50.0%, small classes 25.0%" in text and "unseen night: mIoU 12.5%\n" in text
    assert "styles of unseen scenes: 100.0% correct" in text and f"dgkit quality OUT --judge {tmp_path}" in text


def test_a_wrong_value_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "judge", str(tmp_path), "--set", "segmenter.crop=100"]) == 2
    assert "segmenter.crop=100 is not allowed" in capsys.readouterr().err


def test_the_shipped_recipe_states_the_defaults() -> None:
    recipe = Path(__file__).parents[2] / "training" / "judge.yaml"
    assert JudgeRecipe.model_validate(read_recipe(recipe)) == JudgeRecipe()
