"""Parts that fit together, and parts of different models."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgkit.diffusion.part_config import KNOWN_PARTS
from dgkit.diffusion.part_fit import check_fit
from dgkit.diffusion.random_model import MODELS, RandomModel
from dgkit.errors import ModelError

PATHS = {part: Path("model", part) for part in KNOWN_PARTS}


@pytest.mark.parametrize("name", MODELS)
def test_the_parts_of_a_model_fit(name: str) -> None:
    check_fit(RandomModel(name).configs, PATHS)


@pytest.mark.parametrize(
    ("model", "part", "words"),
    [
        ("tiny-sdxl", "unet", "it is for a model of another size, the UNet for SDXL"),
        ("city", "vae", "has 8 latent channels, but the UNet model/unet expects 4"),
        ("sd21", "text_encoder", "has width 1024, but the UNet's attention expects 16"),
    ],
)
def test_a_part_of_another_model(model: str, part: str, words: str) -> None:
    configs = RandomModel("tiny").configs | {part: RandomModel(model).configs[part]}
    with pytest.raises(ModelError, match=words):
        check_fit(configs, PATHS)
