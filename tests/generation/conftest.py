"""A tiny model and label maps, made once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dgkit.cli.app import main
from tests.models import make_micro_model
from tests.scenes import FAST_FLAGS, make_labels, snapshot


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


@pytest.fixture(scope="module")
def command(request: pytest.FixtureRequest, micro: Path, labels: Path) -> list[str]:
    """Options of ``dgkit generate`` for the ``COUNT`` images of a module of tests."""
    given = ["--labels", str(labels), "--model", str(micro)]
    return [*given, "--count", str(request.module.COUNT), "--style-mix", "uniform", *FAST_FLAGS]


@pytest.fixture(scope="module")
def whole_run(one_thread: None, command: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that ``command`` makes where nothing disturbs it."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(["generate", str(out), *command]) == 0
    return snapshot(out)
