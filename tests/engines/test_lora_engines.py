"""A fused LoRA on every engine: it is in the key, and the outputs are those of PyTorch with the same LoRA."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgkit.diffusion.components import model_networks
from dgkit.diffusion.model_opening import open_model
from dgkit.engines.compare import TOLERANCES
from dgkit.engines.onnx_export import example_inputs, relative_error
from dgkit.engines.runner import runner_class
from dgkit.engines.torch_runner import TorchRunner
from tests.loras import make_lora

pytest.importorskip("peft")
PACKAGES = {"ort": ("onnxruntime", "onnxscript"), "openvino": ("openvino", "onnxscript")}


@pytest.fixture(scope="module")
def lora(micro: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_lora(tmp_path_factory.mktemp("loras") / "lora.safetensors", micro, kind="kohya", alpha=2.0))


SLOW = pytest.mark.slow  # an export of the denoiser takes ten seconds and more, a compilation too


@pytest.mark.parametrize(
    ("engine", "dtype", "name"),
    [
        ("torch", "bf16", "text_encoder"),
        ("torch", "bf16", "denoiser"),
        ("openvino", "fp32", "text_encoder"),
        pytest.param("openvino", "fp32", "denoiser", marks=SLOW),
        *(pytest.param(engine, "fp32", name, marks=SLOW) for engine in ("ort", "compile")
          for name in ("text_encoder", "denoiser")),
    ],
)  # fmt: skip
def test_outputs(micro: Path, lora: str, engine: str, dtype: str, name: str) -> None:
    for package in PACKAGES.get(engine, ()):
        pytest.importorskip(package)
    plain, fused = (model_networks(open_model(micro, loras=loras))[name] for loras in ((), (lora,)))
    inputs = example_inputs(fused, 3)
    with TorchRunner(fused) as torch_runner, TorchRunner(plain) as without:
        expected, other = torch_runner(**inputs), without(**inputs)
    again = model_networks(open_model(micro, loras=(lora,)))[name]  # weights that no other runner has rounded
    with runner_class(engine)(again, dtype=dtype) as runner:
        found = runner(**inputs)
    limit = TOLERANCES["bf16"] if dtype == "bf16" else 1e-4
    for key, value in expected.items():
        reference = value.float().numpy()
        assert relative_error(found[key].float().numpy(), reference) <= limit
        assert relative_error(other[key].float().numpy(), reference) > 0.05


@pytest.mark.slow
def test_tensorrt_rtx_builds_it(micro: Path, lora: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines for TensorRT-RTX are built without a GPU; each LoRA has its own."""
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("onnxscript")
    from dgkit.engines import trt_library
    from dgkit.engines.trt import TrtRunner

    monkeypatch.setenv(trt_library.VARIABLE, "rtx")
    engines = [
        TrtRunner(model_networks(open_model(micro, loras=loras))["text_encoder"], dtype="fp32").prepare()
        for loras in ((), (lora,))
    ]
    assert all(engines) and engines[0][0].name != engines[1][0].name
