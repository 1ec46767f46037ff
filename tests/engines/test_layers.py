"""The first layer in which two engines differ is found by name, on every engine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines import layers
from dgkit.engines.compare import Comparison, EngineSpec, OutputCheck
from dgkit.engines.layers import LayerReport, check_layers
from dgkit.engines.runner import Network
from dgkit.engines.store import EngineStore
from dgkit.errors import EngineError, UsageError

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'dgkit[cpu]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'dgkit[cpu]'")


def load(folder: ModelFolder, name: str) -> Network:
    folder.release()
    return model_networks(folder)[name]


def with_weights(network: Network, change: Callable[[nn.Module], None]) -> Network:
    def changed() -> nn.Module:
        module = network.load()
        change(module)
        return module

    return Network(network.spec, changed, network.digest, network.sizes, network.model)


@pytest.mark.parametrize("second", ["ort", "ort:fp16", "openvino", "torch:bf16"])
def test_layers_of_equal_networks_agree(folder: ModelFolder, second: str) -> None:
    if second == "openvino":
        pytest.importorskip("openvino", reason="needs openvino: pip install 'dgkit[cpu]'")
    report = check_layers(
        Comparison(partial(load, folder, "vae_encoder"), EngineSpec("torch"), EngineSpec.parse(second))
    )
    print(f"{second}: {len(report.checks)} layers, worst {report.worst.output} {report.worst.relative:.1e}")
    names = [check.output for check in report.checks]
    assert len(names) == len(set(names)) > 20
    assert names[0] == "encoder.conv_in" and names[-1] == "quant_conv"
    assert report.first is None and 0 < report.worst.relative < report.worst.tolerance
    assert report.worst.relative == max(check.relative for check in report.checks)
    if second in ("ort", "openvino"):  # every layer was matched with its own tensor
        assert report.worst.relative < 1e-5
    assert not list(EngineStore().root.glob(".layers-*"))


@torch.no_grad()
def damage(module: nn.Module, *, value: float | None = None) -> None:
    part = module.get_submodule("encoder.mid_block.resnets.0.conv1")
    if value is None:
        part.weight.mul_(1.5)  # type: ignore[operator]
    else:
        part.bias[0] = value  # type: ignore[index]


@pytest.mark.parametrize("second", ["torch", "ort"])
@pytest.mark.parametrize("value", [None, math.inf])
def test_the_layer_that_differs_is_found(
    folder: ModelFolder, second: str, value: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One engine computes with other weights in one layer."""
    trace = layers._TRACERS["torch"]

    def wrong(job: layers._TraceJob) -> dict[str, Tensor]:
        return trace(dataclasses.replace(job, network=with_weights(job.network, partial(damage, value=value))))

    monkeypatch.setitem(layers._TRACERS, "torch", wrong)
    if second == "torch":
        monkeypatch.setitem(layers._TRACERS, "ort", trace)
    report = check_layers(Comparison(partial(load, folder, "vae_encoder"), EngineSpec("ort"), EngineSpec("torch")))
    names = [check.output for check in report.checks]
    assert report.first is not None and report.first.output == "encoder.mid_block.resnets.0.conv1"
    before = report.checks[: names.index(report.first.output)]
    assert before and all(check.relative < 1e-5 for check in before)
    if value is None:
        assert report.first.relative == pytest.approx(0.5, rel=0.2) and not report.worst.not_finite
    else:
        assert "torch:fp32" in report.first.not_finite and "inf at [0, 0, 0, 0]" in report.first.not_finite
        assert math.isnan(report.worst.relative) and report.worst.not_finite


def test_layers_called_twice_or_with_submodules_are_excluded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.once, self.block = nn.Linear(2, 2), nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))

        def forward(self, value: Tensor) -> Tensor:
            return self.block(self.once(self.shared(self.shared(value))))

    module = Twice()
    assert list(layers._run_hooked(module, [torch.zeros(1, 2)])) == ["once", "block.0"]
    assert not any(part._forward_hooks for part in module.modules())


def test_the_worst_layer_is_the_one_that_is_not_finite() -> None:
    def check(name: str, relative: float, problem: str = "") -> OutputCheck:
        return OutputCheck("denoiser", name, relative, relative, 1e-3, problem)

    report = LayerReport("denoiser", (check("a", 1e-6), check("b", 0.5), check("c", math.nan, "bad")))
    assert report.worst.output == "c" and report.first is not None and report.first.output == "b"
    assert LayerReport("denoiser", (check("a", 1e-6), check("b", 1e-5))).worst.output == "b"


def test_engines_without_access_to_layers_are_refused(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(second: EngineSpec) -> LayerReport:
        return check_layers(Comparison(partial(load, folder, "condition"), EngineSpec("torch"), second))

    for second, words in (
        (EngineSpec("compile"), "'compile' gives no access to its layers; engines that do: torch, ort, openvino, trt"),
        (
            EngineSpec("openvino", "int8"),
            "openvino:int8 gives no access to its layers; dtypes that do: fp32, bf16, fp16",
        ),
        (EngineSpec("ort", "bf16"), "ONNX Runtime does not support bf16 on the CPU"),
    ):
        with pytest.raises(UsageError, match=words):
            compare(second)
    with pytest.raises(EngineError, match="TensorRT needs an NVIDIA GPU; the device is cpu"):
        compare(EngineSpec("trt"))
    monkeypatch.setitem(layers._TRACERS, "ort", lambda job: {})
    with pytest.raises(EngineError, match="condition: torch:fp32 and ort:fp32 have no layer in common"):
        compare(EngineSpec("ort"))
