"""The folder of a training is made once and accepts only runs of the same recipe."""

from pathlib import Path

import pytest

from dgkit.config import Config, read_recipe
from dgkit.errors import OutputError, UsageError
from dgkit.training.loop.training_folder import (
    check_training_folder,
    main_process,
    sole_training,
    write_recipe,
)


class Data(Config):
    root: str = "a"
    workers: int = 0


class Recipe(Config):
    lr: float = 0.5
    data: Data = Data()
    extra: Data | None = None


FREE = frozenset({"data.workers"})


def open_training_folder(out: Path | None, recipe: Config, free: frozenset[str]) -> Path:
    out = check_training_folder(out, recipe, free)
    write_recipe(out, recipe)
    return out


def trained(out: Path) -> None:
    """Leave a checkpoint as a training does."""
    (out / "training" / "checkpoints" / "step_00000001").mkdir(parents=True)


def test_a_new_folder_gets_the_recipe(tmp_path: Path) -> None:
    out = open_training_folder(tmp_path / "a" / "b", Recipe(), FREE)
    assert out == tmp_path / "a" / "b"
    expected = {"lr": 0.5, "data": {"root": "a", "workers": 0}, "extra": None}
    assert read_recipe(out / "config.yaml") == expected


def test_the_same_recipe_is_accepted_with_other_free_keys(tmp_path: Path) -> None:
    trained(open_training_folder(tmp_path, Recipe(), FREE))
    open_training_folder(tmp_path, Recipe(data=Data(workers=4)), FREE)
    assert read_recipe(tmp_path / "config.yaml")["data"]["workers"] == 4


def test_a_free_group_frees_all_its_keys(tmp_path: Path) -> None:
    trained(open_training_folder(tmp_path, Recipe(), frozenset({"data", "extra"})))
    open_training_folder(tmp_path, Recipe(data=Data(root="b"), extra=Data()), frozenset({"data", "extra"}))


def test_photographs_are_read_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upright, stored = tmp_path / "upright", tmp_path / "stored"
    trained(open_training_folder(upright, Recipe(), FREE))
    assert sorted(path.name for path in upright.iterdir()) == ["config.yaml", "training"]
    monkeypatch.setenv("DGKIT_EXIF", "ignore")
    with pytest.raises(UsageError, match="a training with DGKIT_EXIF=apply; it is ignore now") as caught:
        open_training_folder(upright, Recipe(), FREE)
    assert "set DGKIT_EXIF=apply" in caught.value.hint
    open_training_folder(stored, Recipe(), FREE)
    trained(open_training_folder(stored, Recipe(), FREE))
    monkeypatch.setenv("DGKIT_EXIF", "apply")
    with pytest.raises(UsageError, match="a training with DGKIT_EXIF=ignore; it is apply now"):
        open_training_folder(stored, Recipe(), FREE)


def test_the_environment_of_an_untrained_folder_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKIT_EXIF", "ignore")
    open_training_folder(tmp_path, Recipe(), FREE)
    assert (tmp_path / "environment.yaml").read_text() == "DGKIT_EXIF: ignore\n"
    monkeypatch.delenv("DGKIT_EXIF")
    trained(open_training_folder(tmp_path, Recipe(), FREE))
    open_training_folder(tmp_path, Recipe(), FREE)
    assert not (tmp_path / "environment.yaml").exists()


def test_trainings_without_data_sets_read_no_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(open_training_folder(tmp_path, Data(), FREE))
    monkeypatch.setenv("DGKIT_EXIF", "ignore")
    open_training_folder(tmp_path, Data(), FREE)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(lr=0.25), r"holds a training with lr=0\.5; this recipe has lr=0\.25"),
        (Recipe(data=Data(root="b")), r"data\.root=a; this recipe has data\.root=b"),
        (Recipe(extra=Data()), r"extra\.root=None; this recipe has extra\.root=a"),
    ],
)
def test_another_recipe_is_refused_by_the_key_that_differs(tmp_path: Path, recipe: Recipe, words: str) -> None:
    trained(open_training_folder(tmp_path, Recipe(), FREE))
    with pytest.raises(UsageError, match=words):
        open_training_folder(tmp_path, recipe, FREE)
    assert read_recipe(tmp_path / "config.yaml")["lr"] == 0.5


def test_files_of_the_system_are_no_other_files(tmp_path: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "@eaDir"):
        (tmp_path / name).touch()
    open_training_folder(tmp_path, Recipe(), FREE)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputError, match="is not empty and is not a training folder"):
        open_training_folder(tmp_path, Recipe(), FREE)


def test_a_missing_folder_name_is_refused() -> None:
    with pytest.raises(UsageError, match="no output folder was given") as caught:
        open_training_folder(None, Recipe(), FREE)
    assert "--out" in caught.value.hint


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        open_training_folder(tmp_path / "file" / "out", Recipe(), FREE)


def test_only_the_main_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert not main_process()
    open_training_folder(tmp_path / "out", Recipe(), FREE)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_which_nothing_was_trained_accepts_another_recipe(tmp_path: Path) -> None:
    open_training_folder(tmp_path, Recipe(), FREE)
    assert read_recipe(open_training_folder(tmp_path, Recipe(lr=0.25), FREE) / "config.yaml")["lr"] == 0.25


def test_a_check_writes_nothing(tmp_path: Path) -> None:
    check_training_folder(tmp_path / "out", Recipe(), FREE)
    assert not (tmp_path / "out").exists()


def test_one_training_at_a_time_and_an_empty_folder_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    with sole_training(out), pytest.raises(OutputError, match="another run is writing to"), sole_training(out):
        pass
    assert not (tmp_path / "a").exists()
    with sole_training(out):
        write_recipe(out, Recipe())
    assert [path.name for path in out.iterdir()] == ["config.yaml"]


def test_only_the_main_process_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sole_training(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with sole_training(tmp_path):
            pass
