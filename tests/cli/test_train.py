"""``dgkit train``: bad recipes are refused before anything is written."""

import pytest

from dgkit.cli.app import main


def test_an_unknown_key_of_the_recipe_is_refused(tmp_path, capsys):
    assert main(["train", "city", str(tmp_path / "work"), "--set", "unet.speed=3"]) == 2
    message = capsys.readouterr().err
    assert "unknown key 'unet.speed'" in message and "steps" in message
    assert not (tmp_path / "work").exists()


def test_a_missing_recipe_is_refused(tmp_path, capsys):
    assert main(["train", "city", str(tmp_path / "work"), "--recipe", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_the_shipped_recipe_states_the_defaults(pytestconfig: pytest.Config):
    from dgkit.config import load_config
    from dgkit.training.recipe import CityRecipe

    shipped = load_config(CityRecipe, pytestconfig.rootpath / "training" / "city.yaml")
    assert shipped == CityRecipe()
