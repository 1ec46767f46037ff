"""The findings of `dgkit doctor`, on this machine and on simulated ones."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from dgkit import diagnosis, provenance
from dgkit.optional import install_command, installer
from tests.extras import EXTRAS


def test_diagnosis_of_this_machine_is_plain_data() -> None:
    found = diagnosis.diagnose()
    assert json.loads(json.dumps(found.as_dict()))["python"] == found.python
    torch = next(library for library in found.libraries if library.engine == "torch")
    assert torch.usable and found.versions["torch"] in torch.detail
    assert found.devices[0].name == "cpu" and found.devices[0].usable
    assert {extra.name for extra in found.extras} == EXTRAS


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile\n", ("AVX2", "AVX-512", "AVX512_BF16", "AMX_BF16")),
        ("Features\t: fp asimd bf16 sve\n", ("NEON", "ARM_BF16", "SVE")),
        ("", ()),
    ],
)
def test_cpu_features(tmp_path: Path, text: str, features: tuple[str, ...]) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{text}")
    assert diagnosis.cpu(path).features == features
    assert diagnosis.cpu(tmp_path / "absent").features == ()


def test_a_missing_or_broken_library_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.11: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)  # another test may have loaded the real one
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace())  # loads, but has no __version__
    found = {library.engine: library for library in diagnosis.libraries()}
    assert not found["openvino"].usable and found["openvino"].remedy
    assert found["trt"].detail == "does not load: libnvinfer.so.11: cannot open"
    assert found["rtx"].detail.startswith("loads, then fails")


def installed(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    monkeypatch.setattr(provenance, "version", lambda name: "1.0" if name in packages else None)


def test_extras_name_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["torch>=2", 'onnx>=1; extra == "cpu"', 'ray[default]>=2; extra == "ray"', 'openvino; extra == "cpu"']
    monkeypatch.setattr(metadata, "requires", lambda _: declared)
    installed(monkeypatch, "onnx", "ray")
    assert diagnosis.extras() == (
        diagnosis.Extra("cpu", ("openvino",), install_command("cpu")),
        diagnosis.Extra("ray", (), ""),
    )


def test_advice_is_for_the_hardware_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ['onnxruntime-gpu; extra == "gpu"', 'onnxruntime; extra == "cpu"', 'openvino; extra == "cpu"']
    monkeypatch.setattr(metadata, "requires", lambda _: declared)
    remedies: dict[tuple[bool, str], list[str]] = {}
    for gpu in (False, True):
        monkeypatch.setattr(diagnosis, "has_nvidia_gpu", lambda gpu=gpu: gpu)
        for package in ("onnxruntime", "onnxruntime-gpu"):
            installed(monkeypatch, package)
            remedies[gpu, package] = [extra.remedy for extra in diagnosis.extras()]
    cpu, gpu_line = install_command("cpu"), f"pip uninstall -y onnxruntime && {install_command('gpu')}"
    only_openvino = f"{installer()} openvino"
    assert remedies == {
        (False, "onnxruntime"): ["", cpu],
        (True, "onnxruntime"): [gpu_line, cpu],
        (False, "onnxruntime-gpu"): ["", only_openvino],
        (True, "onnxruntime-gpu"): ["", only_openvino],
    }
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for gpu, line in ((False, ""), (True, diagnosis.install_line("gpu"))):
        monkeypatch.setattr(diagnosis, "has_nvidia_gpu", lambda gpu=gpu: gpu)
        assert next(one.remedy for one in diagnosis.libraries() if one.engine == "trt") == line


def test_the_fastest_engine_is_one_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def fastest(*engines: str, features: tuple[str, ...] = (), cuda: bool = False) -> str:
        torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: cuda))
        monkeypatch.setitem(sys.modules, "torch", torch)
        names = ("torch", "ort", "openvino", "trt", "rtx")
        return diagnosis.fastest_engine([diagnosis.Library(n, n, n in engines, "") for n in names], features)

    assert fastest("torch", "openvino", features=("AVX512_BF16",)) == "--engine openvino --dtype bf16"
    assert fastest("torch", "ort", features=("AVX2",)) == "--engine torch --dtype fp32"
    assert fastest("torch", "openvino", "trt", cuda=True) == "--engine trt --dtype fp16"
    assert fastest("torch", cuda=True) == "--engine torch --dtype fp16"


def test_short_runs_need_no_engine_that_is_built() -> None:
    assert diagnosis.engine_advice("--engine torch --dtype fp32") == "--engine torch --dtype fp32"
    advice = diagnosis.engine_advice("--engine openvino --dtype bf16")
    assert advice == "--engine openvino --dtype bf16, once built, for long runs; --engine torch for short ones"


def test_conflicting_packages_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "opencv-python", "opencv-python-headless", "onnxruntime")
    (problem,) = diagnosis.problems()
    assert problem.endswith("pip install --no-deps opencv-python-headless")
    installed(monkeypatch, "opencv-python-headless", "onnxruntime")
    assert diagnosis.problems() == ()
