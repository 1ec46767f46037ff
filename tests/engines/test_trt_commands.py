"""The commands for NVIDIA's tools: TensorRT's options accept the shapes, and ONNX Runtime's part of the check runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines.copies import copy_out
from dgkit.engines.onnx_export import export_engine
from dgkit.engines.spec import NETWORKS
from dgkit.engines.trt_commands import SCRIPT, script
from tests.models import random_networks

POLYGRAPHY = "import sys; from polygraphy.tools._main import main; sys.exit(main())"


def words_of(text: str, program: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(program)]
    return shlex.split(line)


def test_profiles_of_trtexec() -> None:
    networks = random_networks("sd15")
    words = words_of(script(networks["denoiser"], "fp16"), "trtexec")
    assert words[1:5] == ["--onnx=model.onnx", "--saveEngine=model.engine", "--stronglyTyped", "--noTF32"]
    assert words[7].startswith("--maxShapes=latents:64x4x64x64,timestep:64,text:64x77x768,condition:64x")
    words = words_of(script(networks["vae_decoder"], "fp16", (1, 2, 4)), "trtexec")
    shapes = (
        {"min": "1x4x64x64", "opt": "2x4x64x64", "max": "4x4x64x64"},
        {"min": "1x4x32x32", "opt": "1x4x64x64", "max": "1x4x128x256"},
    )
    expected = [[f"--profile={n}", *(f"--{k}Shapes=latents:{v}" for k, v in s.items())] for n, s in enumerate(shapes)]
    assert words[5:] == [*expected[0], *expected[1]]


@pytest.mark.parametrize("name", [*NETWORKS])
def test_options_of_polygraphy(name: str) -> None:
    words = words_of(script(random_networks("tiny")[name], "fp16"), "polygraphy")
    assert words.count("--trt-min-shapes") == (2 if name.startswith("vae_") else 1)
    assert words[words.index("--snr-tolerance") + 1] == "40"
    assert ("timestep:[0,999]" in words) == (name == "denoiser")
    bf16 = words_of(script(random_networks("tiny")[name], "bf16"), "polygraphy")
    assert "--validate" in bf16 and "--onnxrt" not in bf16 and "--snr-tolerance" not in bf16


@pytest.mark.slow
def test_polygraphy_takes_the_command_and_runs_its_onnx_part(folder: ModelFolder, tmp_path: Path) -> None:
    for package in ("polygraphy", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'dgkit[cpu]'")
    network = model_networks(folder)["vae_encoder"]
    out = copy_out(export_engine(network), tmp_path / "vae_encoder", {SCRIPT: script(network, "fp32")})
    words = words_of((out / SCRIPT).read_text(encoding="utf-8"), "polygraphy")

    def run(*arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-c", POLYGRAPHY, *arguments], cwd=out, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    run(*words[1:], "--gen-script", str(tmp_path / "check.py"))  # parses every option and runs nothing
    written = (tmp_path / "check.py").read_text(encoding="utf-8")
    assert "strongly_typed=True" in written and written.count("Profile()") == 2 and "Snr" in written
    shapes = words[words.index("--input-shapes") : words.index("--input-shapes") + 2]
    said = run("run", "model.onnx", "--onnxrt", "--onnxrt", "--compare-func", "snr", "--snr-tolerance", "60", *shapes)
    assert "PASSED" in said
