"""The choice of ONNX Runtime's providers: order, options, what is refused, and what the runner says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dgkit.config import load_config
from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines.engine_recipe import resolve_device
from dgkit.engines.ort import OrtRunner
from dgkit.engines.ort_providers import NAMES, ProviderPlan, check_taken, order_note, requested
from dgkit.engines.runner import BuildOptions
from dgkit.errors import EngineError, MissingDependency, UsageError

CUDA = torch.device("cuda", 1)
ALL = list(NAMES.values())


def options(**values: Any) -> BuildOptions:
    return load_config(BuildOptions, values)


def plan(folder: ModelFolder, tmp_path: Path, chosen: BuildOptions, device: torch.device = CUDA) -> ProviderPlan:
    ranges = {"batch": (1, 8, 64)}
    return ProviderPlan(model_networks(folder)["denoiser"], device, "fp16", chosen, ranges, lambda: tmp_path / "kept")


def test_order_is_that_of_the_options(folder: ModelFolder, tmp_path: Path) -> None:
    found = plan(folder, tmp_path, options(providers=["rtx", "cuda", "cpu"])).providers(ALL)
    assert [name for name, _ in found] == [NAMES["rtx"], NAMES["cuda"], NAMES["cpu"]]
    assert [given.get("device_id") for _, given in found] == [1, 1, None]
    note = order_note(found, "denoiser")
    assert "denoiser on NvTensorRTRTX, then CUDA, then CPU;" in note and "run on the CPU" in note


def test_engines_of_a_provider_cover_the_whole_range_and_are_kept(folder: ModelFolder, tmp_path: Path) -> None:
    chosen = options(providers=["tensorrt"], workspace_gib=2, optimisation_level=4)
    ((name, given),) = plan(folder, tmp_path, chosen).providers(ALL)
    assert name == NAMES["tensorrt"]
    assert given["trt_profile_opt_shapes"].startswith("latents:8x4x8x8,timestep:8,text:8x12x64,")
    assert given["trt_profile_max_shapes"].endswith(",control_scale:64")
    assert given["trt_engine_cache_enable"] == 1 and given["trt_timing_cache_path"] == str(tmp_path / "kept")
    assert given["trt_max_workspace_size"] == 2 << 30 and given["trt_builder_optimization_level"] == 4
    ((_, rtx),) = plan(folder, tmp_path, options(providers=["rtx"])).providers(ALL)
    assert rtx["nv_runtime_cache_path"] == str(tmp_path / "kept") and "nv_profile_min_shapes" in rtx


@pytest.mark.parametrize(
    ("device", "chosen", "words"),
    [
        ("cpu", {"providers": ["cuda"]}, "providers cuda need a GPU; the device is cpu"),
        ("cuda", {"providers": ["cpu"]}, "cpu may only be the last one"),
        ("cuda", {"providers": ["cpu", "cuda"]}, "cpu may only be the last one"),
        ("cuda", {"providers": ["cuda", "cuda"]}, "each may be named once"),
        ("cuda", {"providers": ["tensorrt", "rtx"]}, "tensorrt and rtx cannot be combined"),
    ],
)
def test_combinations_that_are_refused(device: str, chosen: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        requested(torch.device(device), options(**chosen))
    assert caught.value.hint


def test_usual_providers() -> None:
    assert requested(torch.device("cpu"), options()) == ("cpu",)
    assert requested(CUDA, options()) == ("cuda",)
    assert requested(CUDA, options(optimisation_level=3)) == ("tensorrt", "cuda")


def test_unknown_provider_is_refused() -> None:
    with pytest.raises(UsageError, match="providers"):
        options(providers=["cudnn"])


def test_missing_provider_says_what_to_install(folder: ModelFolder, tmp_path: Path) -> None:
    for name, words in (("rtx", "onnxruntime-trt-rtx"), ("cuda", "pip uninstall onnxruntime")):
        with pytest.raises(MissingDependency, match=f"has no {NAMES[name]}, only CPU") as caught:
            plan(folder, tmp_path, options(providers=[name])).providers([NAMES["cpu"]])
        assert words in caught.value.hint


class FakeRuntime:
    """An ONNX Runtime that has every provider, and takes only those in ``taken``."""

    def __init__(self, taken: list[str]) -> None:
        self.taken, self.asked = taken, list[Any]()
        self.SessionOptions = type("Options", (), {})

    def get_available_providers(self) -> list[str]:
        return ALL

    def InferenceSession(self, path: str, settings: object, providers: list[Any]) -> FakeRuntime:  # noqa: N802
        self.asked = providers
        return self

    def get_providers(self) -> list[str]:
        return self.taken


def test_provider_that_onnxruntime_leaves_out_is_an_error(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'dgkit[cpu]'")
    monkeypatch.setattr("dgkit.engines.runner.find_device", lambda name: torch.device(name))
    said: list[str] = []
    network = model_networks(folder)["condition"]
    runner = OrtRunner(network, "cuda", notify=said.append, options=options(providers=["tensorrt", "cuda"]))
    runtime = FakeRuntime([NAMES["tensorrt"], NAMES["cuda"], NAMES["cpu"]])
    monkeypatch.setattr("dgkit.engines.ort.require", lambda module, extra: runtime)
    with runner:
        assert [name for name, _ in runtime.asked] == [NAMES["tensorrt"], NAMES["cuda"]]
    assert [line for line in said if line.startswith("engine ort: ")] == [order_note(runtime.asked, "condition")]
    runtime.taken = [NAMES["cuda"], NAMES["cpu"]]
    with pytest.raises(EngineError, match=r"TensorrtExecutionProvider does not load; ONNX Runtime would use CUDA"):
        runner.__enter__()
    check_taken(runtime.asked[1:], runtime.taken, "x")


def test_device_follows_any_gpu_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for found, device in (([NAMES["cpu"]], "cpu"), ([NAMES["rtx"], NAMES["cpu"]], "cuda")):
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda found=found: found)
        assert resolve_device("auto", "ort") == device
