"""The commands of the page on priors and LoRA run in the order given, on a tiny model and tiny LoRA files."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from dgkit.cli.app import main
from tests.loras import make_lora
from tests.pages import guide, lines, section

pytest.importorskip("peft")
PAGE = guide("priors")
QUICK = ["--count", "1", "--world", "1", "--engine", "torch", "--dtype", "fp32", "--workers", "0", "--batch", "2"]
SHORT = {"generate": QUICK, "build-engines": ["--networks", "text_encoder"], "export": ["--networks", "text_encoder"]}
HUB = {
    "latent-consistency/lcm-lora-sdv1-5": "snow.safetensors",
    "ByteDance/Hyper-SD/Hyper-SD15-8steps-lora.safetensors": "grain.safetensors",
}


@pytest.fixture
def folder(micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(micro, "dginstyle")
    make_lora(Path("snow.safetensors"), micro, kind="kohya", alpha=1.0)
    make_lora(Path("grain.safetensors"), micro, text=False, seed=1)
    return tmp_path


def run(line: str) -> None:
    for hub, file in HUB.items():
        line = line.replace(hub, file)
    words = shlex.split(line)[1:]
    preset = [] if "--preset" in words or words[0] != "generate" else ["--preset", "one-pass:steps=1"]
    assert main([*words, *SHORT.get(words[0], []), *preset]) == 0, line


@pytest.mark.slow
@pytest.mark.parametrize("heading", ["LoRA", "Few-step adapters"])
def test_the_commands_of_the_page(folder: Path, heading: str) -> None:
    if heading == "LoRA":
        pytest.importorskip("openvino")
        pytest.importorskip("onnxscript")
    for line in lines(section(PAGE, heading)):
        run(line)


def test_a_run_records_its_loras(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, *_ = lines(section(PAGE, "LoRA"))
    run(f"{line} --preview")
    run(line)
    settings = yaml.safe_load((folder / "snow" / "config.yaml").read_text())
    assert settings["lora"] == [f"{folder}/snow.safetensors:0.8"] and len(settings["lora_digest"]) == 64
    facts = json.loads((folder / "snow" / "dataset.json").read_text())
    assert facts["settings"]["lora"] == settings["lora"]
    capsys.readouterr()
    run(line)
    for other in ("--lora snow.safetensors:0.7", "--lora grain.safetensors"):
        assert main(["generate", "snow", *shlex.split(other)]) == 1
        assert "made with other settings (lora: " in capsys.readouterr().err
    assert main(["generate", "snow", "--count", "2"]) == 0
    for further in (["--preview"], []):
        assert main(["generate", "plain", "--model", "dginstyle", "--preset", "lcm4:steps=1", *QUICK, *further]) == 0
        assert "add --lora latent-consistency/lcm-lora-sdv1-5" in " ".join(capsys.readouterr().err.split())
