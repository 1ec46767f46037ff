"""The package keeps its floors, and the checker that says so notices each way of breaking them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.floors import violations

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    "__init__", "labels", "errors", "config", "data/__init__", "data/labelmap", "world/__init__", "engines/__init__",
    "engines/base", "diffusion/__init__", "generation/__init__", "generation/run", "training/__init__",
    "training/segmenter", "cli/__init__", "cli/generate",
)  # fmt: skip


def write_package(folder: Path, sources: dict[str, str]) -> Path:
    """A package of empty modules on all floors, with the given sources by path (``a/b`` is ``a/b.py``)."""
    package = folder / "dgkit"
    for name in FILES:
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source)
    return package


def test_package_keeps_its_floors() -> None:
    assert violations(ROOT / "dgkit") == []


def test_checker_reads_the_whole_package() -> None:
    # An empty list above means nothing unless the files were found.
    assert len(list((ROOT / "dgkit").rglob("*.py"))) > 5


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cli/generate", "def generate():\n    import torch\n    from dgkit.generation.run import run\n"),
        ("cli/generate", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"),
        ("generation/run", "import torch\nfrom dgkit.diffusion import sampler\nfrom dgkit.errors import DgkitError\n"),
        ("data/labelmap", "import cv2\nfrom dgkit import labels, __version__\nfrom . import labelmap\n"),
        ("config", "from dgkit.errors import UsageError\n"),
        ("training/segmenter", "import mmseg\n"),
    ],
)
def test_allowed_imports(tmp_path: Path, module: str, source: str) -> None:
    assert violations(write_package(tmp_path, {module: source})) == []


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("data/labelmap", "from dgkit.engines import base\n", "upward, from floor 1 to 2"),
        ("data/labelmap", "from ..engines.base import Runner\n", "upward, from floor 1 to 2"),
        ("data/labelmap", "def f():\n    from dgkit import diffusion\n", "upward, from floor 1 to 3"),
        ("labels", "import dgkit.data.labelmap\n", "upward, from floor 0 to 1"),
        ("diffusion/__init__", "import importlib\nimportlib.import_module('dgkit.generation.run')\n", "upward"),
        ("generation/run", "from dgkit.training import segmenter\n", "sideways on floor 4"),
        ("world/__init__", "from dgkit.data import labelmap\n", "sideways on floor 1"),
        ("labels", "import torch\n", "imports torch at module level on floor 0"),
        ("cli/generate", "from diffusers import DDIMScheduler\n", "imports diffusers at module level on floor 6"),
        ("cli/generate", "try:\n    import onnx\nexcept ImportError:\n    onnx = None\n", "imports onnx at module"),
        ("cli/generate", "class A:\n    import ray\n", "imports ray at module level"),
        ("cli/generate", "if TYPE_CHECKING:\n    pass\nelse:\n    import openvino\n", "imports openvino at module"),
        ("diffusion/__init__", "def f():\n    import mmseg\n", "imports mmseg; only"),
        ("generation/run", "import benchmarks.overhead\n", "recipe folder benchmarks/"),
        ("engines/base", "from training import recipe\n", "recipe folder training/"),
        ("generation/run", "import dgkit.novelty\n", "no floor is stated for dgkit.novelty"),
    ],
)
def test_forbidden_imports(tmp_path: Path, module: str, source: str, reason: str) -> None:
    found = violations(write_package(tmp_path, {module: source}))
    assert len(found) == 1 and reason in found[0]


def test_heavy_library_reached_through_another_module(tmp_path: Path) -> None:
    sources = {"cli/generate": "from dgkit.data.labelmap import read\n", "data/__init__": "import cv2\n"}
    package = write_package(tmp_path, sources)
    assert violations(package) == [
        "dgkit.cli.generate loads cv2 at import: dgkit.cli.generate -> dgkit.data -> cv2",
    ]
