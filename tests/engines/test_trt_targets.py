"""Engines of TensorRT-RTX for chosen cards: built on a CPU, copied, opened on their cards and refused on others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dgkit.config import load_config
from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines.runner import BuildOptions
from dgkit.engines.store import Engine, EngineStore
from dgkit.engines.trt_build import ENGINE, check_device, engine_key, obtain_engine
from dgkit.engines.trt_library import load_library
from dgkit.engines.trt_targets import parse_targets
from dgkit.errors import EngineError, UsageError

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'dgkit[rtx]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'dgkit[cpu]'")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKIT_TRT", "rtx")


def options(**values: Any) -> BuildOptions:
    return load_config(BuildOptions, {"batch": [1, 2, 4], **values})


@pytest.fixture()
def built(folder: ModelFolder) -> Engine:
    """An engine for two cards, built without a GPU; the store is shared in the session."""
    network = model_networks(folder)["condition"]
    return obtain_engine(load_library(), network, "fp16", CPU, options(targets=["sm89", "sm120"]))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that the only GPU has a compute capability."""

    def choose(major: int, minor: int) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (major, minor))
        monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "Card X")

    return choose


def test_side_car_says_for_which_cards(built: Engine, folder: ModelFolder) -> None:
    assert built.key.flags == {"targets": "sm89,sm120"} and built.key.device == {"kind": "any"}
    assert built.file(ENGINE).stat().st_size > 1000
    network = model_networks(folder)["condition"]
    plain = engine_key(load_library(), network, "fp16", CPU, options())
    assert plain.flags == {} and plain.digest() != built.key.digest()


def test_copied_engine_opens_on_its_cards_only(
    built: Engine, folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: Any
) -> None:
    network, library = model_networks(folder)["condition"], load_library()
    shutil.copytree(built.folder, tmp_path / "engines" / built.name)
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    for capability in ((8, 9), (12, 0)):
        card(*capability)
        found = obtain_engine(library, network, "fp16", GPU, options(), rebuild="never")
        assert found.folder == EngineStore().folder(built.key)
    card(8, 6)
    for chosen in (options(), options(targets=["sm89", "sm120"])):
        with pytest.raises(EngineError, match=r"was built for sm89, sm120; cuda:0 is sm86 \(Card X\)") as caught:
            obtain_engine(library, network, "fp16", GPU, chosen, rebuild="never")
        assert caught.value.hint.endswith("dgkit build-engines --for sm89,sm120,sm86")


def test_engines_of_other_options_are_not_taken(built: Engine, folder: ModelFolder, card: Any) -> None:
    card(8, 9)
    network = model_networks(folder)["condition"]
    with pytest.raises(EngineError, match=r"differs in shapes\.batch"):
        obtain_engine(load_library(), network, "fp16", GPU, options(batch=[1, 2, 5]), rebuild="never")


@pytest.mark.parametrize("text", ["sm89,sm120", "8.9,12.0", "120, SM_89", "sm120,sm89,sm89"])
def test_spellings(text: str) -> None:
    assert parse_targets(text) == ("sm89", "sm120")


@pytest.mark.parametrize("text", ["", "ada", "sm", "sm89;sm120", "8.9.1"])
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected compute capabilities"):
        parse_targets(text)


def test_unknown_cards_and_options_are_refused() -> None:
    library = load_library()
    with pytest.raises(UsageError, match=r"unknown compute capability sm99; this TensorRT-RTX has sm75, .*sm120"):
        check_device(library, CPU, options(targets=["sm89", "sm99"]))
    for name in ("hardware_compatible", "version_compatible"):
        with pytest.raises(EngineError, match=f"TensorRT-RTX has no option {name}") as caught:
            check_device(library, CPU, options(**{name: True}))
        assert "--for" in caught.value.hint


def test_tensorrt_builds_for_its_own_gpu_only() -> None:
    library = type("Library", (), {"is_rtx": False})()
    with pytest.raises(UsageError, match="sm89 need TensorRT-RTX"):
        check_device(library, CPU, options(targets=["sm89"]))


def test_weight_streaming_is_part_of_the_key_and_builds_without_a_gpu(folder: ModelFolder) -> None:
    network, library = model_networks(folder)["condition"], load_library()
    engine = obtain_engine(library, network, "fp16", CPU, options(weight_streaming=True))
    assert engine.key.flags == {"weight_streaming": True}
    key = engine_key(library, network, "fp16", CPU, options(weight_streaming=True, weight_budget_gib=2))
    assert key == engine.key  # the budget is a setting of the run
