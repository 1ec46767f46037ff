"""Shared set-up: no network, caches in a temporary folder, short garbage collections, reasons for skipped tests."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

# Set before huggingface_hub is imported: no test may depend on the network.
os.environ["HF_HUB_OFFLINE"] = "1"
# Set before torch and numpy are imported: workers of pytest-xdist, and the processes that they start, share the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
# Files with single tests or fixtures of ten seconds and more: started first, they do not leave one worker busy at the
# end, and no other worker takes some of their tests over and builds the fixtures again.
_NAMES = (
    "against_official real_processes wheel stages judge_training readme export matrix check compile_runner page measure"
)
LONG = tuple(f"test_{name}.py" for name in _NAMES.split())
_frozen: dict[str, Path] = {}  # the file of tests for which garbage was last collected


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give this run, and each of its workers, a home folder and an engine store of its own."""
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["DGKIT_CACHE"] = str(tmp_path_factory.mktemp("dgkit-cache"))


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model folder with random weights, below 1 MB."""
    from tests.models import make_micro_model

    return make_micro_model(tmp_path_factory.mktemp("models") / "micro")


@pytest.fixture(scope="session", params=["sd21", "sdxl"])
def family_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder of the architecture of Stable Diffusion 2.1, and one of SDXL's."""
    from tests.models import make_family_model

    return make_family_model(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.fixture(scope="session")
def sdxl_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder of the architecture of SDXL."""
    from tests.models import make_family_model

    return make_family_model(tmp_path_factory.mktemp("models") / "xl", "sdxl")


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four label maps, 96 x 160 pixels."""
    from tests.scenes import make_labels

    return make_labels(tmp_path_factory.mktemp("source") / "labels")


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Return ``../shared``: data too large for the repository, such as real label maps."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the data folder {folder}, which is not on this machine")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the longest tests to the front."""
    items.sort(key=lambda item: not str(item.path).endswith(LONG))


def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Exclude what a new file of tests found from garbage collection, above all imported packages.

    Each collection would visit their millions of objects: half a second at the end of each training alone.
    """
    if item.path != _frozen.get("for"):
        _frozen["for"] = item.path
        gc.collect()
        gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
    if item.get_closest_marker("network") and os.environ.get("DGKIT_TEST_NETWORK") != "1":
        pytest.skip("needs an internet connection: set DGKIT_TEST_NETWORK=1")
