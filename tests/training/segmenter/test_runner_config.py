"""The config of mmengine's Runner, and files of earlier runs: configs and recipes stay readable."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("mmseg") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

from dgkit.training.segmenter.network_pairs import EncoderOptions
from dgkit.training.segmenter.runner_config import IMPORTS, runner_config
from dgkit.training.segmenter.segmenter_recipe import SegmenterRecipe, load_segmenter

# As written next to the checkpoints of earlier runs; the names must never change.
OLD_CONFIG = """
custom_imports = dict(allow_failed_imports=False, imports=[
    'dgkit.training.segmenter.networks', 'dgkit.training.segmenter.mixture', 'dgkit.training.segmenter.hooks',
    'dgkit.training.segmenter.precision', 'dgkit.training.segmenter.style_hook'])
"""
REGISTERED = {
    "MODELS": [
        *("DAFormerHead", "DeepLabV2Head", "HRDASegmentor", "RegularisedSegmentor"),
        *("TokenBackbone", "StageBackbone", "EfficientNetLite0", "FoundationSegmentor"),
        *("LinearHead", "UperNetHead", "MaskedAttentionHead", "EomtHead"),
    ],
    "DATASETS": ["SourceAndGenerated", "WholeImages"],
    "TRANSFORMS": ["ReadImage", "ReadLabel", "ClassCrop"],
    "HOOKS": ["SeededIterations", "BaseStyles", "MaskAnnealing"],
    "OPTIM_WRAPPERS": ["Bf16OptimWrapper"],
}
OLD_RECIPE = """
head: segformer
backbone: mit_b0
two_scales: false
channels: 16
pretrained: weights.pth
feature_distance: {weight: 0.005, classes: [6, 7], min_ratio: 0.75}
shade: {styles: 64, refresh: 4000, images: null, concentration: 0.015625, weight: 10.0}
seed: 3
data:
  source: {dataset: gta, root: data/gta, split: null, scale: [1280, 720]}
  generated: [data/generated]
  filtered: false
  share: 0.5
  crop: 512
  cat_max_ratio: 0.75
  rare_classes: {temperature: 0.01, min_pixels: 3000, min_crop_ratio: 0.5}
  colour: true
  verify: true
  val: {dataset: cityscapes, root: data/cityscapes, split: val, scale: [1024, 512]}
  workers: 2
  cache: false
train:
  steps: 40000
  batch: 2
  lr: 6.0e-05
  head_lr: 10.0
  weight_decay: 0.01
  warmup: 1500
  precision: fp32
  checkpoint_every: 4000
  keep: 2
  validate_every: 4000
export: true
out: runs/old
"""


def test_an_earlier_config_registers_everything(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text(OLD_CONFIG)
    # In a new process, where nothing is registered yet.
    script = f"""
from mmengine.config import Config
Config.fromfile({str(path)!r})
import mmseg.registry as registry
for name, classes in {REGISTERED!r}.items():
    for one in classes:
        found = getattr(registry, name).get(one)
        assert found is not None and found.__module__.startswith("dgkit."), (name, one)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def test_new_configs_import_the_same_modules(micro: dict, tmp_path: Path) -> None:
    config = runner_config(SegmenterRecipe.model_validate(micro), tmp_path)
    assert config["custom_imports"]["imports"] == IMPORTS
    assert all(repr(name) in OLD_CONFIG for name in IMPORTS) and len(IMPORTS) == 5


def test_an_earlier_resolved_recipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(OLD_RECIPE)
    recipe = load_segmenter(path)
    assert (recipe.seed, recipe.data.share, recipe.train.lr, str(recipe.out)) == (3, 0.5, 6e-5, "runs/old")
    added = recipe.model_dump(mode="json").keys() - recipe.model_fields_set
    assert added == {"freeze", "rein", "lora", "patch", "blocks"}  # off by default
    assert recipe.encoder == EncoderOptions() and (recipe.train.power, recipe.train.layer_decay) == (1, 1)
