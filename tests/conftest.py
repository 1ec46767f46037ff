"""Shared set-up: no network, caches in a temporary folder, and marks that explain themselves when they skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before huggingface_hub is imported anywhere: a test that reached for a hub would pass or fail with the network.
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Exported graphs go to a folder of this run, never to the user's cache."""
    os.environ["DGKIT_CACHE"] = str(tmp_path_factory.mktemp("dgkit-cache"))


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Data too large for the repository, in ``../shared``: real label maps and the like."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the data folder {folder}, which is not on this machine")
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
    if item.get_closest_marker("network") and os.environ.get("DGKIT_TEST_NETWORK") != "1":
        pytest.skip("needs an internet connection: set DGKIT_TEST_NETWORK=1")
