"""Recipes of segmenters: Python recipes and refused settings."""

import importlib.util
from pathlib import Path

import pytest

if importlib.util.find_spec("mmengine") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

from dgkit.errors import InputError, UsageError
from dgkit.training.segmenter.segmenter_recipe import load_segmenter

RECIPES = Path(__file__).resolve().parents[3] / "training" / "segmenter"


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.py"
    path.write_text(text)
    return path


def test_a_python_recipe_can_extend_another(tmp_path):
    (tmp_path / "base.py").write_text("data = dict(source=dict(root='a'), crop=64)\nseed = 3\n")
    recipe = written(tmp_path, "_base_ = ['base.py']\nhead = 'segformer'\ndata = dict(crop=128)\n")
    loaded = load_segmenter(recipe, ["train.steps=7"], tmp_path / "out")
    assert (loaded.head, loaded.seed, loaded.data.crop, loaded.train.steps) == ("segformer", 3, 128, 7)
    assert loaded.out == tmp_path / "out" and loaded.data.source.root == Path("a")


def test_unknown_keys_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"unknown key 'data.sorce'"):
        load_segmenter(written(tmp_path, "data = dict(sorce=1, source=dict(root='a'))"), out=tmp_path)


def test_an_unreadable_recipe_is_named(tmp_path):
    with pytest.raises(InputError, match=r"recipe.py"):
        load_segmenter(written(tmp_path, "data = 1 / 0"), out=tmp_path)
    with pytest.raises(InputError, match="no such file"):
        load_segmenter(tmp_path / "none.py", out=tmp_path)


@pytest.mark.parametrize(
    ("sets", "reason"),
    [
        (["head=deeplabv2"], "needs backbone resnet101"),
        (["head=unet"], "unet needs unet"),
        (["backbone=unet"], "unet needs unet"),
        (["head=unet", "backbone=unet", "pretrained=a.pth"], "cannot be combined with two_scales, pretrained"),
        (["head=unet", "backbone=unet", "data.crop=100"], "multiple of 16"),
        (["data.share=0.3"], "needs a folder of them"),
        (["two_scales=true", "data.crop=100"], "multiple of"),
        (["data.source.dataset=gtav"], "unknown data set"),
        (["feature_distance={}"], "needs ImageNet weights"),
        (["pretrained=a.pth", "feature_distance={classes: [6, 19]}"], r"classes \[19\] are not train ids"),
        (["pretrained=a.pth", "feature_distance.min_ratio=0.5"], "greater than 0.5"),
        (["shade.images=10"], "styles=64 cannot be chosen from images=10"),
    ],
)
def test_incompatible_settings_are_refused(tmp_path, sets, reason):
    with pytest.raises(UsageError, match=reason):
        load_segmenter(written(tmp_path, "data = dict(source=dict(root='a'))"), sets, tmp_path)


def test_an_output_folder_is_required(tmp_path):
    with pytest.raises(UsageError, match="output folder"):
        load_segmenter(written(tmp_path, "data = dict(source=dict(root='a'))"))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.py")), ids=lambda path: path.name)
def test_the_shipped_recipes_are_valid(path, tmp_path):
    assert load_segmenter(path, out=tmp_path).train.steps == 40_000


def test_the_shipped_recipes_have_the_loss_terms_of_the_published_runs(tmp_path):
    loaded = {path.stem: load_segmenter(path, out=tmp_path) for path in RECIPES.glob("*mit*.py")}
    assert [name for name, recipe in loaded.items() if recipe.shade] == ["hrda_daformer_mitb5"]
    with_distance = sorted(name for name, recipe in loaded.items() if recipe.feature_distance)
    assert with_distance == ["daformer_mitb5", "hrda_daformer_mitb5"]
    assert loaded["hrda_daformer_mitb5"].terms == {
        "feature_distance": {"weight": 0.005, "classes": [6, 7, *range(11, 19)], "min_ratio": 0.75},
        "shade": {"styles": 64, "refresh": 4000, "images": None, "concentration": 1 / 64, "weight": 10.0},
    }
