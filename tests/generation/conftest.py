"""Settings of short runs on a tiny model, and what such a run makes without disturbance."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dgkit
from dgkit.cli.app import main
from tests.scenes import FAST, FAST_FLAGS, snapshot


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute with one thread, as each of two workers on two cores does: bytes depend on the number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def settings(request: pytest.FixtureRequest, micro: Path, labels: Path) -> dict[str, Any]:
    """Settings of ``dgkit.generate`` for the ``COUNT`` images of a test module."""
    return {"labels": labels, "model": str(micro), "count": request.module.COUNT, "style_mix": "uniform", **FAST}


@pytest.fixture(scope="module")
def whole(one_thread: None, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that one process makes with ``settings``, except config.yaml, which states the number of workers."""
    out = tmp_path_factory.mktemp("whole") / "out"
    dgkit.generate(out, **settings)
    return snapshot(out, skip="config.yaml")


@pytest.fixture(scope="module")
def command(request: pytest.FixtureRequest, micro: Path, labels: Path) -> list[str]:
    """Options of ``dgkit generate`` for the ``COUNT`` images of a test module."""
    given = ["--labels", str(labels), "--model", str(micro)]
    return [*given, "--count", str(request.module.COUNT), "--style-mix", "uniform", *FAST_FLAGS]


@pytest.fixture(scope="module")
def whole_run(one_thread: None, command: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that ``command`` makes without interruption."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(["generate", str(out), *command]) == 0
    return snapshot(out)
