"""Keys and side-cars do not change between releases, so that engines on disk stay valid."""

from __future__ import annotations

import platform
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dgkit import provenance
from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.diffusion.random_model import RandomModel
from dgkit.engines import compile_runner, machine, openvino_runner, trt_build
from dgkit.engines.compile_runner import CompileRunner
from dgkit.engines.onnx_export import graph_key
from dgkit.engines.runner import BuildOptions
from dgkit.engines.sidecar import SIDECAR, EngineSideCar, describe_files, read_sidecar, write_sidecar
from dgkit.engines.trt_library import TrtLibrary
from tests.engines.stored import change

GOLDEN = Path(__file__).parents[1] / "golden"
CPU = torch.device("cpu")


@pytest.fixture()
def _fixed_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose packages all have version 1.0 and whose CPU has AVX2 and computes in bf16."""
    monkeypatch.setattr(provenance, "version", lambda package: "1.0")
    monkeypatch.setattr(machine, "cpu", lambda: SimpleNamespace(features=("AVX2",)))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(openvino_runner, "has_bf16", lambda: True)


@pytest.mark.golden
@pytest.mark.usefixtures("_fixed_machine")
def test_engine_names_never_change() -> None:
    """Computed with dgkit 0.1 at commit b240e2c, where ``format`` was 1."""
    networks = model_networks(ModelFolder(GOLDEN / "tiny-sd"))
    denoiser, decoder = networks["denoiser"], networks["vae_decoder"]
    tuned = BuildOptions(batch=(1, 4, 16), optimisation_level=3, refit=True)
    keys = (
        graph_key(denoiser),
        graph_key(decoder, "fp16", opset=19),
        openvino_runner.engine_key(denoiser, "fp32"),
        openvino_runner.engine_key(denoiser, "bf16"),
        openvino_runner.engine_key(denoiser, "int8"),
        compile_runner.engine_key(CompileRunner(denoiser, dtype="bf16")),
        trt_build.engine_key(TrtLibrary("trt", None), denoiser, "fp16", CPU, tuned),
        trt_build.engine_key(TrtLibrary("rtx", None), decoder, "fp16", CPU, BuildOptions()),
    )
    assert [key.name for key in keys] == [
        "denoiser-onnx-fp32-055bed715e9cd69d",
        "vae_decoder-onnx-fp16-26f9972c814ad1e7",
        "denoiser-openvino-fp32-a39fa76e347793a6",
        "denoiser-openvino-bf16-909358a004997744",
        "denoiser-openvino-int8-8f918f5c84677de7",
        "denoiser-compile-bf16-5c681130d59c282d",
        "denoiser-trt-fp16-5dbf2401fe237a68",
        "vae_decoder-rtx-fp16-8b2bf654841ac9cf",
    ]


@pytest.mark.golden
@pytest.mark.usefixtures("_fixed_machine")
def test_model_digests_never_change() -> None:
    """Computed with dgkit 0.1 at commit b240e2c: the ``weights`` of a key, and the model of a generated folder."""
    folder, random = ModelFolder(GOLDEN / "tiny-sd"), RandomModel("tiny")
    assert [digest[:16] for digest in (folder.digest("unet", "controlnet"), folder.digest())] == [
        "86f8bf22d921998a",
        "b4388208a567f34f",
    ]
    assert [digest[:16] for digest in (random.digest("unet", "controlnet"), random.digest())] == [
        "2237d0b57d8b2151",
        "66511b07ee31e0e2",
    ]


@pytest.mark.golden
def test_a_written_side_car_keeps_its_bytes(tmp_path: Path) -> None:
    key = change(
        dtype="fp16",
        shapes={"batch": "1,8,64", "height": 64},
        backend="trt",
        backend_version="10.0",
        versions={"torch": "2.0"},
        device={"kind": "cuda", "name": "GPU"},
        flags={"refit": True, "workspace_gib": 1.5},
    )
    (tmp_path / "model.bin").write_bytes(b"engine")
    sidecar = EngineSideCar(
        key=key,
        digest=key.digest(),
        files=describe_files(tmp_path),
        model="models/city",
        created="2025-01-01T00:00:00+00:00",
        seconds=1.5,
        dgkit="0.1",
        notes={"error": {"prediction": 1e-5}, "layers": None},
    )
    write_sidecar(tmp_path, sidecar)
    assert (tmp_path / SIDECAR).read_text() == (GOLDEN / SIDECAR).read_text()
    assert read_sidecar(tmp_path) == sidecar.sealed()
