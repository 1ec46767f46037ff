"""The commands of the page on other priors run in the order given, on a tiny model of SDXL's architecture."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dgkit.cli.app import main
from dgkit.data.generated import list_scenes
from tests.pages import blocks, guide, lines, section

PAGE = guide("priors")
INTRODUCTION, SECTION = PAGE.partition("\n## ")[0], section(PAGE, "Stable Diffusion 2.1 and SDXL")
HUB = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "prior",
    "yurujaja/DGInStyle/ControlNet_UNet-S": "prior/controlnet",
}
PRIOR = "stabilityai/stable-diffusion-xl-base-1.0"
SHORT = {
    "train": ["--set", "train={steps: 1, batch: 1, warmup: 0}", "--set", "validation.samples=0"],
    "generate": ["--count", "1", "--preset", "one-pass:steps=1", "--engine", "torch"],
}


def test_every_command_of_the_page_is_run() -> None:
    """The sections on LoRA are run by test_lora_page.py."""
    parts = [INTRODUCTION, SECTION, *(section(PAGE, heading) for heading in ("LoRA", "Few-step adapters"))]
    assert sorted(line for part in parts for line in lines(part)) == sorted(lines(PAGE)) and len(lines(PAGE)) == 14


def test_a_prior_and_a_controlnet(micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prior").symlink_to(micro)
    for line in lines(INTRODUCTION):
        for hub, folder in HUB.items():
            line = line.replace(hub, folder)
        words = shlex.split(line)[1:]
        assert main([*words, *SHORT.get(words[0], []), *(["--world", "1"] if words[0] == "generate" else [])]) == 0, (
            line
        )
    assert len(list_scenes("scenes")) == 1


def test_the_commands_on_sdxl(sdxl_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    Path("prior").symlink_to(sdxl_model)
    recipe = yaml.safe_load(blocks(SECTION, "yaml")[0].replace(PRIOR, "prior"))
    Path("street-xl.yaml").write_text(yaml.safe_dump(recipe))
    rng = np.random.default_rng(0)
    for number in range(2):
        label = rng.choice([0, 2, 10, 13], (8, 12)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        for name, array in (("labels", label), ("images", rng.integers(0, 255, (64, 96, 3)).astype(np.uint8))):
            Path("city", name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(Path("city", name, f"{number}.png"))
    for line in lines(SECTION):
        words = shlex.split(line.replace(PRIOR, "prior"))[1:]
        assert main([*words, *SHORT.get(words[0], [])]) == 0, line
    assert len(list_scenes("scenes")) == 1
