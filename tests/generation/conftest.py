"""A tiny model and label maps, made once."""

from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two workers on two cores have one thread each: what they are compared with must have no more."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
