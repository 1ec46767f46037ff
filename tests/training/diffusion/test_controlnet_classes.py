"""Training a ControlNet of other classes, and its swap."""

from pathlib import Path

import diffusers
import numpy as np
import pytest
from PIL import Image

from dgkit.diffusion.loading import open_model
from dgkit.diffusion.style_swap import swap
from dgkit.errors import InputError
from dgkit.generation.run import generate
from dgkit.taxonomies import CAMVID11
from dgkit.training.diffusion.commands import train_controlnet
from dgkit.training.diffusion.diffusion_recipes import ControlNetTraining
from tests.models import make_micro_model

TRAIN = {"steps": 2, "batch": 2, "lr": 1e-3, "warmup": 0, "checkpoint_every": 2, "validate_every": 2, "log_every": 1}


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs and label maps of CamVid's ids, as the data set has them."""
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for number in range(3):
        label = rng.integers(0, 12, (10, 12)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        for folder, array in (("train", CAMVID11.colours[label]), ("trainannot", label)):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "data" / folder / f"{number}.png")
    return tmp_path / "data"


def recipe(folder: Path, pairs: Path, **data: object) -> ControlNetTraining:
    rows = [{"dataset": "camvid", "root": str(pairs)}]
    validation = {
        "labels": [str(pairs / "trainannot" / "0.png")],
        "encoding": "camvid",
        "styles": ("none",),
        "steps": 1,
        "samples": 1,
    }
    values = {
        "model": str(make_micro_model(folder / "base", with_controlnet=False)),
        "out": folder / "controlnet",
        "data": {"rows": rows, "min_pixels": 50, "taxonomy": "camvid11", **data},
        "train": TRAIN,
        "validation": validation,
    }
    return ControlNetTraining.model_validate(values)


def test_train_swap_and_generate(tmp_path: Path, pairs: Path) -> None:
    train_controlnet(recipe(tmp_path, pairs))
    assert diffusers.ControlNetModel.from_pretrained(tmp_path / "controlnet").config.conditioning_channels == 12
    prior = make_micro_model(tmp_path / "prior", with_controlnet=False, seed=5)
    swap(prior, tmp_path / "controlnet", tmp_path / "model")
    assert open_model(tmp_path / "model").info.taxonomy is CAMVID11
    result = generate(
        tmp_path / "scenes",
        dataset=f"camvid={pairs}",
        model=str(tmp_path / "model"),
        count=1,
        preset="one-pass:steps=1",
        engine="torch",
        dtype="fp32",
        batch=2,
        workers=0,
    )
    assert result.source_pixels is not None and len(result.source_pixels) == 11


def test_rows_of_other_classes_are_refused(tmp_path: Path, pairs: Path) -> None:
    with pytest.raises(InputError, match="the scenes of the city cannot be used with the classes of camvid11"):
        train_controlnet(recipe(tmp_path, pairs, rows=[{"dataset": "city", "count": 1}]))
    assert not (tmp_path / "controlnet").exists()
