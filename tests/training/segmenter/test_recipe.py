"""Recipes of segmenters: Python recipes and refused settings."""

import importlib.util
from pathlib import Path

import pytest

if importlib.util.find_spec("mmengine") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

from dgkit.config import dump_config
from dgkit.errors import InputError, UsageError
from dgkit.training.segmenter.segmenter_recipe import SegmenterData, SegmenterRecipe, load_segmenter

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
        (["backbone=mit_b9"], "unknown backbone 'mit_b9'; known: mit_b0, .*transformers:<folder or hub id>"),
        (["head=eomt"], "eomt needs a ViT of transformers"),
        (["backbone=transformers:x", "lora.rank=0"], "greater than or equal to 1"),
        (["backbone=transformers:x", "rein={}"], "rein adapts a frozen encoder, but freeze is False"),
        (["backbone=transformers:x", "freeze=norms", "lora={}"], "lora adapts a frozen encoder, but freeze is norms"),
        (["backbone=transformers:x", "freeze=true", "lora={}", "rein={}"], "rein and lora cannot be combined"),
        (["backbone=transformers:x", "feature_distance={}", "pretrained=x"], "it harms foundation encoders"),
        (["freeze=true", "feature_distance={}", "pretrained=x"], "features of a frozen encoder do not change"),
        (["freeze=true", "shade={}"], "shade changes how the encoder learns"),
        (["backbone=efficientnet_lite0", "shade={}"], "shade restyles features of mit"),
        (["backbone=transformers:x", "two_scales=true"], "two_scales needs a trained encoder"),
        (["backbone=efficientnet_lite0", "two_scales=true"], "two_scales needs a trained encoder"),
        (["head=linear", "two_scales=true"], "two_scales needs a trained encoder"),
        (["freeze=half"], "freeze"),
        (["data.short_sides=[512,256]"], "the smaller one first"),
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
    steps = 90_000 if path.name == "mask2former_swin_tiny.py" else 40_000  # as published
    assert load_segmenter(path, out=tmp_path).train.steps == steps


def test_the_shipped_recipes_have_the_loss_terms_of_the_published_runs(tmp_path):
    loaded = {path.stem: load_segmenter(path, out=tmp_path) for path in RECIPES.glob("*mit*.py")}
    assert [name for name, recipe in loaded.items() if recipe.shade] == ["hrda_daformer_mitb5"]
    with_distance = sorted(name for name, recipe in loaded.items() if recipe.feature_distance)
    assert with_distance == ["daformer_mitb5", "hrda_daformer_mitb5"]
    assert loaded["hrda_daformer_mitb5"].terms == {
        "feature_distance": {"weight": 0.005, "classes": [6, 7, *range(11, 19)], "min_ratio": 0.75},
        "shade": {"styles": 64, "refresh": 4000, "images": None, "concentration": 1 / 64, "weight": 10.0},
    }


def test_the_config_of_a_run_without_generated_images_is_a_recipe(tmp_path):
    data = SegmenterData.model_validate({"source": {"dataset": "gta", "root": "x"}})
    recipe = SegmenterRecipe(head="linear", backbone="mit_b0", data=data, out=tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(recipe))
    assert load_segmenter(path) == recipe


def test_the_recipes_of_foundation_networks_have_the_published_constants(tmp_path):
    for size, blocks in (("small", (2, 5, 8, 11)), ("base", (2, 5, 8, 11)), ("large", (7, 11, 15, 23))):
        rein = load_segmenter(RECIPES / f"rein_dinov2_{size}.py", out=tmp_path)
        assert (rein.backbone, rein.blocks) == (f"transformers:facebook/dinov2-{size}", blocks)
        assert rein.freeze is True and rein.patch == 16 and rein.rein.model_dump() == {"tokens": 100, "rank": 16}
        assert (rein.train.lr, rein.train.weight_decay, rein.train.power, rein.train.batch) == (1e-4, 0.05, 0.9, 4)
        assert rein.data.short_sides == (256, 1024) and rein.data.rare_classes is None
    eomt = load_segmenter(RECIPES / "eomt_dinov2_small.py", out=tmp_path)
    assert (eomt.head, eomt.train.batch, eomt.train.layer_decay, eomt.freeze) == ("eomt", 16, 0.8, False)
    assert (eomt.train.lr, eomt.train.head_lr, eomt.train.weight_decay, eomt.train.power) == (1e-4, 1, 0.05, 0.9)
    swin = load_segmenter(RECIPES / "mask2former_swin_tiny.py", out=tmp_path)
    assert swin.train.lr * swin.train.head_lr == pytest.approx(1e-4) and swin.train.lr == 1e-5
    assert (swin.train.steps, swin.train.batch, swin.train.weight_decay, swin.train.warmup) == (90_000, 16, 0.05, 0)
    assert eomt.train.clip == swin.train.clip == 0.01 and eomt.data.cat_max_ratio == swin.data.cat_max_ratio == 1
    lite = load_segmenter(RECIPES / "efficientnet_lite0_daformer.py", out=tmp_path)
    assert (lite.head, lite.backbone, lite.train.lr) == ("daformer", "efficientnet_lite0", 6e-5)
