"""Micro models on disk, created once per session; tests that damage one copy it first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.models import make_micro_model

# Features of the embedded model that Stable Diffusion does not have.
LIKE_EMBEDDED = {
    "latent_channels": 8,
    "text_time": True,
    "text_length": 28,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "zero_snr": True,
    "defaults": {"name": "like-embedded", "guidance_scale": 3.0, "label_height": 256},
}


@pytest.fixture(scope="session")
def like_embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_micro_model(tmp_path_factory.mktemp("micro") / "like-embedded", **LIKE_EMBEDDED)


@pytest.fixture()
def copy(micro: Path, tmp_path: Path) -> Path:
    """A model folder to damage."""
    return Path(shutil.copytree(micro, tmp_path / "copy"))
