"""One micro model and its networks; a store with one engine."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dgkit.diffusion import calibration
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines.store import Engine, EngineStore
from tests.engines import stored
from tests.models import make_micro_model


@pytest.fixture(scope="session")
def micro_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_micro_model(tmp_path_factory.mktemp("engines") / "model", text_time=True, text_length=12)


@pytest.fixture()
def folder(micro_folder: Path) -> ModelFolder:
    return ModelFolder(micro_folder)


@pytest.fixture
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate on three scenes with one sample per timestep."""
    monkeypatch.setattr(calibration, "_MAX_SCENES", 3)
    monkeypatch.setattr(calibration, "SAMPLES_PER_STEP", 1)


@pytest.fixture()
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "engines")


@pytest.fixture()
def engine(store: EngineStore) -> Engine:
    return store.obtain(stored.KEY, stored.build)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the package logs, such as the reason for each build."""
    caplog.set_level(logging.INFO, "dgkit")
    return caplog
