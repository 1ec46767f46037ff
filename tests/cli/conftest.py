"""A tiny model and label maps, made once."""

from pathlib import Path

import pytest

from tests.models import make_micro_model
from tests.scenes import make_labels


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_micro_model(tmp_path_factory.mktemp("models") / "micro")


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labels(tmp_path_factory.mktemp("source") / "labels")
