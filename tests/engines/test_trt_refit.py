"""New weights for an engine: the engine to start from, and weights that do not fit, which are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dgkit.config import load_config
from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines.onnx_export import MODEL, export_engine
from dgkit.engines.runner import BuildOptions
from dgkit.engines.store import EngineStore
from dgkit.engines.trt_build import ENGINE, engine_key, obtain_engine
from dgkit.engines.trt_library import load_library
from dgkit.engines.trt_refit import check_weights, engine_to_refit, graph_of, load_weights, read_weights
from dgkit.errors import EngineError
from tests.models import make_micro_model

pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'dgkit[cpu]'")
pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'dgkit[rtx]'")
OPTIONS = load_config(BuildOptions, {"batch": [1, 2, 4], "refit": True})


@pytest.fixture(autouse=True)
def rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKIT_TRT", "rtx")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelFolder]:
    """Models like the usual one with other weights, and with a text encoder of another length."""
    root = tmp_path_factory.mktemp("refit")
    seed = make_micro_model(root / "weights", text_time=True, text_length=12, seed=1)
    length = make_micro_model(root / "shapes", text_time=True, text_length=16)
    return {"weights": ModelFolder(seed), "shapes": ModelFolder(length)}


def graph(folder: ModelFolder, name: str) -> Path:
    return export_engine(model_networks(folder)[name]).file(MODEL)


@pytest.mark.parametrize("name", ["condition", "text_encoder"])
def test_other_weights_of_the_same_architecture_fit(
    folder: ModelFolder, others: dict[str, ModelFolder], name: str
) -> None:
    old, new = graph(folder, name), graph(others["weights"], name)
    assert read_weights(old) == read_weights(new)
    assert (old.parent / f"{MODEL}.data").read_bytes() != (new.parent / f"{MODEL}.data").read_bytes()
    check_weights(old, new)


def test_other_shapes_are_refused_by_name(folder: ModelFolder, others: dict[str, ModelFolder]) -> None:
    old, new = graph(folder, "text_encoder"), graph(others["shapes"], "text_encoder")
    with pytest.raises(EngineError) as caught:
        check_weights(old, new)
    words = caught.value.message
    assert words.startswith("the engine cannot take these weights: ")
    assert words.endswith(" is float [1, 16, 64]; the engine has float [1, 12, 64]")
    assert "--refit" in caught.value.hint


def test_missing_weights_are_refused_by_name(folder: ModelFolder) -> None:
    with pytest.raises(EngineError, match=r"cannot take these weights: \S+ is float \[.*\]; the engine has missing"):
        check_weights(graph(folder, "condition"), graph(folder, "text_encoder"))


def test_engine_to_start_from(folder: ModelFolder, others: dict[str, ModelFolder], tmp_path: Path) -> None:
    library, store, cpu = load_library(), EngineStore(tmp_path), torch.device("cpu")
    network, other = (model_networks(model)["condition"] for model in (folder, others["weights"]))
    key, wanted = (engine_key(library, item, "fp32", cpu, OPTIONS) for item in (network, other))
    assert key.flags == {"refit": True} and engine_to_refit(store, wanted) is None
    source = export_engine(network)

    def build(folder: Path) -> dict[str, Any]:
        (folder / ENGINE).write_bytes(b"engine")
        return {"graph": source.name}

    store.obtain(key, build)
    found = engine_to_refit(store, wanted)
    assert found is not None and found.key == key
    plain = engine_key(library, other, "fp32", cpu, load_config(BuildOptions, {"batch": [1, 2, 4]}))
    assert engine_to_refit(store, plain) is None  # only where it was requested
    assert graph_of(store, found) is None  # the graph is in another store
    assert graph_of(EngineStore(), found) == source.file(MODEL)


def test_refusal_of_the_library_names_the_missing_weights(tmp_path: Path) -> None:
    class Refitter:
        def __init__(self, *given: object) -> None: ...

        def refit_from_file(self, path: str) -> bool:
            return False

        def get_missing_weights(self) -> list[str]:
            return ["a.weight"]

    module = type("Module", (), {"Refitter": Refitter, "OnnxParserRefitter": Refitter})
    library: Any = type("Library", (), {"module": module, "logger": None, "reason": lambda self: "no reason given"})()
    with pytest.raises(EngineError, match=r"cannot be loaded into the engine: no reason given; missing: a\.weight"):
        load_weights(library, None, tmp_path / "m.onnx")


def test_refit_without_a_gpu_is_refused(folder: ModelFolder) -> None:
    network = model_networks(folder)["condition"]
    with pytest.raises(EngineError, match="needs a GPU to build engines whose weights can be replaced"):
        obtain_engine(load_library(), network, "fp32", torch.device("cpu"), OPTIONS)
