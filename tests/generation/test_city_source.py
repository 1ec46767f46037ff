"""The procedural city as a source: labels without pictures, drawn by a process of its own while the model is loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dgkit.diffusion.model_opening import open_model
from dgkit.generation import city_source
from dgkit.generation.city_source import drawing_ahead, index_world
from dgkit.generation.generate_config import GenerateConfig
from dgkit.labels import NUM_CLASSES
from dgkit.taxonomies import Taxonomy
from dgkit.world import render, write_role
from dgkit.world.label_process import LabelRequest

SMALL = GenerateConfig(world=3, seed=11, label_scale=0.25)
START = """
import sys
from dgkit.generation import city_source
from dgkit.generation.run import generate
from dgkit.world import label_process
city_source.usable_cores = lambda: {0, 1}
label_process.writing_labels = lambda *_: sys.exit(" ".join(sys.modules))
generate(sys.argv[1])
"""
FIRST_CALL = """
import sys
import dgkit.engines.store
from dgkit.generation import run
from dgkit.generation.settings import chosen_engines

def stop_at_call(config):
    from dgkit.engines.runner import Runner
    Runner.__call__ = lambda *_, **__: sys.exit(" ".join(sys.modules))
    return chosen_engines(config)

run.chosen_engines = stop_at_call
run.generate(sys.argv[1], count=1, model=sys.argv[2], labels=sys.argv[3])
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))


def modules_of(program: str, *arguments: object) -> set[str]:
    """Run a program that ends with the names of its modules on stderr, and return them."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return set(subprocess.run(command, capture_output=True, text=True, check=False).stderr.split())


def drawn() -> list[Path]:
    return sorted((city_source.writable_cache() / "world").rglob("*.png"))


def test_labels_are_drawn_without_pictures(tmp_path: Path) -> None:
    index = index_world(SMALL, None, (64, 64))
    assert {path.parent.name for path in drawn()} == {"labels"}
    write_role(tmp_path / "whole", "source", 3, 11, height=64, workers=1)
    for number, sample in enumerate(index.dataset.samples):
        assert sample.label.read_bytes() == (tmp_path / f"whole/labels/{number + 1:05d}.png").read_bytes()
        label = render("source", 11, number, height=64, width=128).label
        assert np.array_equal(index.read(number), label)
        assert index.counts[number].tolist() == [int((label == c).sum()) for c in range(NUM_CLASSES)]


def test_a_process_draws_while_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = index_world(SMALL, None, (64, 64)).digest
    for path in drawn():
        path.unlink()
    monkeypatch.setattr(city_source, "FEW_SCENES", 1)
    monkeypatch.setattr(city_source, "usable_cores", lambda: {0, 1})
    reports: list[tuple[float, float]] = []
    with drawing_ahead(SMALL, open_model().info, lambda *report: reports.append(report)) as is_drawing:
        assert is_drawing
    assert reports == [(0, 3), (0, 3), (1, 3), (2, 3), (3, 3)]
    kept = [(path.name, path.stat().st_mtime_ns) for path in drawn()]
    assert index_world(SMALL, None, (64, 64)).digest == expected
    assert [(path.name, path.stat().st_mtime_ns) for path in drawn()] == kept and len(kept) == 3
    with drawing_ahead(SMALL, open_model().info, lambda *_: None) as is_drawing:
        assert not is_drawing


@pytest.mark.parametrize(("few", "cores"), [(1, {0}), (4, {0, 1})])
def test_few_scenes_or_one_core_need_no_process(monkeypatch: pytest.MonkeyPatch, few: int, cores: set[int]) -> None:
    monkeypatch.setattr(city_source, "FEW_SCENES", few)
    monkeypatch.setattr(city_source, "usable_cores", lambda: cores)
    with drawing_ahead(SMALL, open_model().info, lambda *_: None) as is_drawing:
        assert not is_drawing


def test_an_error_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(city_source, "usable_cores", lambda: {0, 1})
    many = SMALL.model_copy(update={"world": 100_000})
    with pytest.raises(InterruptedError), drawing_ahead(many, open_model().info, lambda *_: None):
        raise InterruptedError  # or this test waits for an hour


def test_the_process_starts_before_torch_is_imported(tmp_path: Path) -> None:
    modules = modules_of(START, tmp_path / "out")
    assert "dgkit.world.write" in modules
    assert not modules & {"torch", "diffusers", "transformers"}


@pytest.mark.slow
def test_the_first_call_needs_no_other_engine(tmp_path: Path, micro: Path, labels: Path) -> None:
    modules = modules_of(FIRST_CALL, tmp_path / "out", micro, labels)
    assert {"diffusers", "torch"} <= modules
    unused = {"onnx", "onnxruntime", "openvino", "tensorrt", "nncf", "modelopt", "ray", "pyarrow", "gradio", "pandas"}
    assert not modules & unused
    assert not modules & {"dgkit.engines.ort", "dgkit.engines.compile_runner", "dgkit.generation.filter_folder"}


@pytest.mark.parametrize(
    ("size", "label_height", "label_scale", "expected"),
    [
        ((64, 64), None, None, 256),
        ((512, 512), None, None, 512),
        ((64, 64), 128, None, 128),
        ((64, 64), 128, 0.75, 192),
        ((256, 768), 256, None, 384),
        ((512, 64), 256, None, 512),
        ((256, 768), 256, 1.0, 256),
    ],
)
def test_city_scenes_are_rendered_at_the_required_height(
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    label_height: int | None,
    label_scale: float | None,
    expected: int,
) -> None:
    heights: list[int] = []

    def note(request: LabelRequest, progress: Callable[..., None] | None, taxonomy: Taxonomy) -> None:
        heights.append(request.height)
        raise InterruptedError

    monkeypatch.setattr(city_source, "_world_dataset", note)
    with pytest.raises(InterruptedError):
        index_world(GenerateConfig(label_scale=label_scale), label_height, size)
    assert heights == [expected]
