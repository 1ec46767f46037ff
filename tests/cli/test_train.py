"""``dgkit train``: bad recipes are refused before anything is written, good ones become model folders."""

import json
import signal

import numpy as np
import pytest
import yaml
from diffusers import ControlNetModel
from PIL import Image

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
    from dgkit.training.city.city_recipe import CityRecipe

    shipped = load_config(CityRecipe, pytestconfig.rootpath / "training" / "city.yaml")
    assert shipped == CityRecipe()


@pytest.fixture(scope="module")
def recipe(micro, tmp_path_factory):
    """A recipe for all three commands on a micro model and one labelled picture."""
    folder = tmp_path_factory.mktemp("recipe")
    label = np.random.default_rng(0).integers(0, 19, (12, 16)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    for name, array in (("labels", label), ("images", np.stack([label * 9] * 3, axis=-1))):
        (folder / name).mkdir()
        Image.fromarray(array).save(folder / name / "a.png")
    section = {
        "model": str(micro),
        "data": {"rows": [{"dataset": "labels", "root": str(folder)}], "min_pixels": 10},
        "train": {"steps": 2, "batch": 2, "lr": 1e-4, "warmup": 0},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"ldm": section, "controlnet": {**section, "out": str(folder / "stated")}}))
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))


def test_controlnet_prints_one_json_object_and_writes_to_the_folder_of_the_recipe(recipe, capsys):
    assert main(["train", "controlnet", str(recipe), "--set", "train.steps=1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["kind"] == "controlnet" and result["steps"] == 1 and np.isfinite(result["loss"])
    assert result["out"] == str(recipe.parent / "stated")
    assert ControlNetModel.from_pretrained(recipe.parent / "stated").config.conditioning_channels == 20
    assert yaml.safe_load((recipe.parent / "stated" / "config.yaml").read_text())["train"]["steps"] == 1


def test_out_wins_over_the_recipe_and_the_next_command_is_named(recipe, tmp_path, capsys):
    assert main(["train", "ldm", str(recipe), "--out", str(tmp_path / "unet"), "--set", "train.steps=1"]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Training the UNet 1/1 steps, loss" in printed.err
    assert f"next: dgkit train controlnet RECIPE --set model={tmp_path / 'unet'}" in printed.err
    assert (tmp_path / "unet" / "model_index.json").exists()


def test_a_recipe_without_the_section_is_refused(recipe, tmp_path, capsys):
    assert main(["train", "vae", str(recipe), "--out", str(tmp_path / "vae")]) == 2
    assert "has no section 'vae'" in capsys.readouterr().err
    assert not (tmp_path / "vae").exists()


def test_a_training_without_an_output_folder_is_refused(recipe, capsys):
    assert main(["train", "ldm", str(recipe)]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_how_to_resume(recipe, tmp_path, monkeypatch, capsys, number):
    from dgkit.training.diffusion import commands

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setitem(commands.COMMANDS, "ldm", lambda *_: signal.raise_signal(number))
    try:
        assert main(["train", "ldm", str(recipe), "--out", str(tmp_path / "unet")]) == 128 + number
    finally:
        signal.signal(signal.SIGINT, before)
    assert "run the same command again to resume" in capsys.readouterr().err
