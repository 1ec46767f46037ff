"""int8 on OpenVINO: which layers are quantised, how it is verified, which engines refuse it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgkit.bench import network_speed as bench
from dgkit.bench.bench_config import BenchTask
from dgkit.diffusion import calibration
from dgkit.diffusion.loading import load_pipeline, model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines import openvino_runner
from dgkit.engines.compare import Comparison, EngineSpec, check_network
from dgkit.engines.engine_recipe import EngineRecipe
from dgkit.engines.held_out_calls import HELD_OUT
from dgkit.engines.onnx_export import TOLERANCES
from dgkit.engines.openvino_runner import BLOB, OpenVinoRunner, engine_key
from dgkit.engines.quantise import load_nncf, sensitive_layers
from dgkit.engines.runner import RUNNERS, runner_class
from dgkit.engines.sidecar import key_differences
from dgkit.engines.spec import NETWORKS
from dgkit.engines.store import Engine, EngineStore
from dgkit.errors import EngineError, MissingDependency, UsageError
from dgkit.optional import install_command
from tests.engines.stored import denoiser

pytest.importorskip("openvino", reason="needs openvino: pip install 'dgkit[cpu]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'dgkit[cpu]'")
pytestmark = pytest.mark.usefixtures("short_calibration")


@pytest.fixture()
def built(folder: ModelFolder) -> Iterator[Engine]:
    """Built by the first test that needs it; the store is shared in the session."""
    pytest.importorskip("nncf", reason="needs nncf: pip install 'dgkit[int8]'")
    (engine,) = OpenVinoRunner(denoiser(folder), dtype="int8").prepare()
    yield engine


def test_an_engine_and_its_held_out_calls(built: Engine, folder: ModelFolder) -> None:
    assert {entry.path for entry in built.sidecar.files} == {BLOB, HELD_OUT}
    assert 1e-3 < built.sidecar.notes["error"]["prediction"] < TOLERANCES["int8"]
    key = built.key
    assert key.versions["nncf"] and (key.flags["quantised"], key.flags["calibration_seed"]) == ("wide", 77)
    assert (key.flags["calibration_samples"], key.flags["calibration_scenes"]) == (20, 3)
    runner = OpenVinoRunner(denoiser(folder), dtype="int8", rebuild="never")
    held_out = runner.held_out()
    assert held_out and len(held_out[1]["prediction"]) == built.sidecar.notes["held_out"] == 20
    with runner:
        inputs = {name: value[:3] for name, value in held_out[0].items()}
        found = runner(**inputs)["prediction"]
        model = runner._request.get_compiled_model().get_runtime_model()
    error = (found - held_out[1]["prediction"][:3]).norm() / held_out[1]["prediction"][:3].norm()
    assert 1e-3 < error < 2 * TOLERANCES["int8"]
    facts = [node.get_rt_info() for node in model.get_ordered_ops()]
    kinds = [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in facts]
    for layers in (["Convolution"], ["FullyConnected", "MatMul"]):
        types = [kind for layer, kind in kinds if layer in layers]
        assert 0 < types.count("u8") + types.count("i8") < len(types)  # the sensitive ones are not quantised


def test_engines_are_compared_on_held_out_calls(built: Engine, folder: ModelFolder) -> None:
    sides = (EngineSpec("torch"), EngineSpec("openvino", "int8"))
    (check,) = check_network(Comparison(partial(denoiser, folder), *sides, batch=7))
    assert check.passed and check.tolerance == TOLERANCES["int8"]
    assert check.relative == pytest.approx(built.sidecar.notes["error"]["prediction"], rel=0.05)


def test_the_benchmark_compares_on_held_out_calls(
    built: Engine, micro_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = BenchTask(kind="measure", subject="denoiser", engine="openvino", dtype="int8", model=str(micro_folder),
                references=tmp_path, batches=(3,), repeats=3, seconds=0.01)  # fmt: skip
    list(bench.reference(task))
    (cells,) = bench.measure(task)
    assert cells["parity"] == pytest.approx(built.sidecar.notes["error"]["prediction"], rel=0.05)


def test_other_calls_give_another_engine(built: Engine, folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "SEED", 78)
    with pytest.raises(EngineError, match=r"differs in flags\.calibration_seed: expected 78, found 77"):
        OpenVinoRunner(denoiser(folder), dtype="int8", rebuild="never").prepare()
    monkeypatch.setattr(openvino_runner, "SCOPE", "all")
    changed = {item.field for item in key_differences(engine_key(denoiser(folder), "int8"), built.key)}
    assert changed == {"flags.quantised", "flags.calibration_seed"}


def test_an_engine_above_the_tolerance_is_not_kept(
    built: Engine, folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "SEED", 79)
    monkeypatch.setattr(openvino_runner, "quantised", lambda model, calls: model)  # only the verification matters here
    monkeypatch.setitem(TOLERANCES, "int8", 1e-6)
    with pytest.raises(
        EngineError, match=r"prediction differs from PyTorch by .* on held-out calls .*; at most 1e-06 is"
    ) as caught:
        OpenVinoRunner(denoiser(folder), dtype="int8").prepare()
    assert caught.value.hint == "use --dtype bf16"
    store = EngineStore()
    assert not list(store.root.glob(".*.tmp")) and not store.folder(engine_key(denoiser(folder), "int8")).exists()


def test_without_bf16_other_layers_are_fp32(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runner, "has_bf16", lambda: False)
    assert engine_key(denoiser(folder), "int8").flags["precision"] == "f32"
    assert EngineRecipe(engine="openvino", dtype="int8").choice("condition")[1] == "fp32"
    monkeypatch.setattr(openvino_runner, "has_bf16", lambda: True)
    assert engine_key(denoiser(folder), "int8").flags["precision"] == "bf16"


def test_a_recipe_in_int8_changes_the_denoiser_only(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runner, "has_bf16", lambda: True)
    recipe = EngineRecipe.model_validate(
        {"engine": "openvino", "dtype": "int8", "networks": {"vae_decoder": {"engine": "torch"}}}
    )
    found = {name: recipe.choice(name)[1] for name in NETWORKS}
    others = {"condition": "bf16", "vae_encoder": "bf16"}
    assert found == {**dict.fromkeys(NETWORKS, "fp32"), "denoiser": "int8", **others}
    said: list[str] = []
    recipe.runners(model_networks(folder), notify=said.append)
    assert said == ["int8 applies to the denoiser only; condition in bf16, vae_encoder in bf16, vae_decoder in fp32"]
    said.clear()
    own = EngineRecipe.model_validate(
        {"engine": "torch", "networks": {"denoiser": {"engine": "openvino", "dtype": "int8"}}}
    )
    runners = own.runners(model_networks(folder), notify=said.append)
    assert not said and [name for name, runner in runners.items() if runner.dtype_name != "fp32"] == ["denoiser"]
    sides = [str(EngineSpec("openvino", "int8").of(name)) for name in ("denoiser", "condition", "text_encoder")]
    assert sides == ["openvino:int8", "openvino:bf16", "openvino:fp32"]


def test_a_pipeline_in_int8_falls_back_to_fp32(micro_folder: Path) -> None:
    pipeline = load_pipeline(micro_folder, engine="openvino", dtype="int8")
    assert pipeline.runners["denoiser"].dtype_name == "int8" and pipeline._load_precise is not None


@pytest.mark.parametrize("engine", sorted(set(RUNNERS) - {"openvino", "trt"}))
def test_other_engines_refuse_int8(engine: str, folder: ModelFolder) -> None:
    with pytest.raises(
        UsageError,
        match=rf"engine '{engine}' does not support int8, only fp32, .*engines 'openvino' and, on a GPU, 'trt' do",
    ) as caught:
        runner_class(engine)(denoiser(folder), dtype="int8")
    assert "use --engine openvino" in caught.value.hint


def test_other_networks_refuse_int8(folder: ModelFolder) -> None:
    with pytest.raises(UsageError, match="network 'vae_decoder' does not support int8; only the denoiser does"):
        OpenVinoRunner(model_networks(folder)["vae_decoder"], dtype="int8")


def test_without_nncf_the_hint_installs_it(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingDependency, match="'nncf' is not installed") as caught:
        OpenVinoRunner(denoiser(folder), dtype="int8").prepare()
    assert caught.value.hint == install_command("int8")
    assert not [path for path in EngineStore().root.iterdir() if not path.name.endswith(".lock")]


def test_nncf_is_loaded_without_side_effects(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default NNCF reports its use and replaces the logger class."""
    pytest.importorskip("nncf", reason="needs nncf: pip install 'dgkit[int8]'")
    monkeypatch.delenv("NNCF_CI", raising=False)
    before = logging.getLoggerClass()
    assert hasattr(load_nncf(), "quantize")
    assert logging.getLoggerClass() is before and "NNCF_CI" not in os.environ


def test_sensitive_layers() -> None:
    from openvino import Model
    from openvino import opset13 as op

    def product(shape: list[int], name: str) -> Any:
        node = op.matmul(op.parameter(shape, np.float32), np.zeros((shape[-1], 8), np.float32), False, False)
        node.set_friendly_name(name)
        return node

    def convolution(channels: int, name: str) -> Any:
        x = op.parameter([1, channels, 4, 4], np.float32)
        node = op.convolution(x, np.zeros((32, channels, 1, 1), np.float32), [1, 1], [0, 0], [0, 0], [1, 1])
        node.set_friendly_name(name)
        return node

    ends = [product([2, 8], "of vectors"), product([2, 5, 8], "of tokens")]
    ends += [convolution(8, "of latents"), convolution(32, "of features")]
    inputs = [end.input(0).get_source_output().get_node() for end in ends]
    assert sorted(sensitive_layers(Model(ends, inputs))) == ["of latents", "of vectors"]
