"""The commands of the page on own classes run in the order given, on a tiny model."""

import importlib.util
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dgkit.cli.app import main
from dgkit.data.generated import list_scenes
from dgkit.taxonomies import find_taxonomy
from tests.models import make_micro_model
from tests.pages import blocks, guide, lines, section

PAGE = guide("own-classes")
PRIOR = "stable-diffusion-v1-5/stable-diffusion-v1-5"
FILES = ("yard.yaml", "controlnet.yaml", "segmenter.yaml")
TRAIN = "{steps: 2, batch: 2, warmup: 0, checkpoint_every: 2}"
SHORT = {
    "train controlnet": ["--set", f"train={TRAIN}"],
    "train segmenter": ["--set", f"train={TRAIN}", "--set", "channels=16", "--set", "data.crop=64"],
    "generate": ["--count", "2", "--preset", "one-pass:steps=1", "--engine", "torch"],
    "eval": ["--set", "scale=[96,64]", "--set", "crop=64"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the page, and labelled images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    for name, text in zip(FILES, blocks(PAGE, "yaml"), strict=True):
        Path(name).write_text(text.replace(PRIOR, "prior"), encoding="utf-8")
    rng = np.random.default_rng(0)
    for number in range(4):
        label = rng.choice([0, 1, 2, 7, 9], (8, 12)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        for name, array in (("labels", label), ("images", rng.integers(0, 255, (64, 96, 3)).astype(np.uint8))):
            Path("yard", name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(Path("yard", name, f"{number}.png"))
    return tmp_path


def test_the_file_of_the_page_is_a_taxonomy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taxonomy = find_taxonomy(Path("yard.yaml"))
    assert taxonomy.names == ("sky", "lane", "crane") and taxonomy.channels == 4
    assert all(yaml.safe_load(Path(name).read_text()) for name in FILES)
    assert main(shlex.split(lines(PAGE)[0])[1:]) == 0
    assert "crane" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # mmengine warns
def test_the_commands_of_the_page(folder: Path) -> None:
    if importlib.util.find_spec("mmseg") is None:
        pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'")
    make_micro_model(folder / "prior", with_controlnet=False)
    for line in lines(section(PAGE, "From label maps to a segmenter")):
        words = shlex.split(line.replace(PRIOR, "prior"))[1:]
        extra = next((more for name, more in SHORT.items() if " ".join(words).startswith(name)), [])
        assert main([*words, *extra]) == 0, line
    taxonomy = find_taxonomy(Path("yard.yaml"))
    assert all(scene.taxonomy == taxonomy for scene in list_scenes("yard-scenes"))
    assert yaml.safe_load(Path("yard-segmenter/segmenter.yaml").read_text())["taxonomy"] == taxonomy.document()
