"""Every network on every backend of the CPU against PyTorch in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines.compare import TOLERANCES
from dgkit.engines.onnx_export import example_inputs, relative_error
from dgkit.engines.runner import Network, Runner, runner_class
from dgkit.engines.spec import NETWORKS
from dgkit.engines.torch_runner import TorchRunner
from tests.models import random_networks

# (backend, dtype): allowed relative L2 error.
SIDES = {
    ("torch", "bf16"): TOLERANCES["bf16"],
    ("torch", "fp16"): TOLERANCES["fp16"],
    ("compile", "fp32"): 1e-5,
    ("compile", "bf16"): TOLERANCES["bf16"],
    ("ort", "fp32"): 1e-4,
    ("openvino", "fp32"): 1e-4,
    ("openvino", "bf16"): TOLERANCES["bf16"],
}
PACKAGES = {"ort": ("onnxruntime", "onnxscript"), "openvino": ("openvino", "onnxscript")}
# Compiling C++ takes about ten seconds per network, and more for large ones.
QUICK = {("fp32", "condition")}


CHANGED = ("text_encoder", "denoiser")  # networks that have other inputs in SDXL


def cases(model: str, names: Sequence[str] = tuple(NETWORKS)) -> list[object]:
    return [
        pytest.param(
            model,
            name,
            engine,
            dtype,
            marks=() if model == "micro" and (engine != "compile" or (dtype, name) in QUICK) else pytest.mark.slow,
            id=f"{model}-{name}-{engine}-{dtype}",
        )
        for name in names
        for engine, dtype in SIDES
    ]


@pytest.mark.parity
@pytest.mark.parametrize(
    ("model", "name", "engine", "dtype"), [*cases("micro"), *cases("city"), *cases("tiny-sdxl", CHANGED)]
)
def test_against_torch(micro_folder: Path, model: str, name: str, engine: str, dtype: str) -> None:
    def network() -> Network:
        """Load weights that no other runner has rounded."""
        return (model_networks(ModelFolder(micro_folder)) if model == "micro" else random_networks(model))[name]

    for package in PACKAGES.get(engine, ()):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'dgkit[cpu]'")
    runner: Runner = runner_class(engine)(network(), dtype=dtype)
    with TorchRunner(network()) as reference, runner:
        for batch in (1, 5):
            inputs = example_inputs(runner.network, batch=batch, seed=batch)
            expected, found = reference(**inputs), runner(**inputs)
            for key, value in expected.items():
                error = relative_error(found[key].float().numpy(), value.numpy())
                print(f"{name} {key} batch {batch}: {error:.1e}")
                assert error < SIDES[engine, dtype]
