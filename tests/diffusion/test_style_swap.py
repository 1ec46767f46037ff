from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.style_swap import swap
from dgkit.errors import ModelError, OutputError
from tests.models import make_micro_model

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the same architecture and other weights, which provides the ControlNet."""
    return make_micro_model(tmp_path_factory.mktemp("swap") / "source", seed=1, defaults={"name": "source"})


def test_joins_prior_and_controlnet(micro: Path, source: Path, tmp_path: Path) -> None:
    report = swap(micro, source / "controlnet", tmp_path / "new" / "out")
    out = report.out
    assert not report.existed and report.residuals == 5 and report.size == 64
    for part in ("unet", "vae"):
        assert (out / part / WEIGHTS).read_bytes() == (micro / part / WEIGHTS).read_bytes()
    assert (out / "controlnet" / WEIGHTS).read_bytes() == (source / "controlnet" / WEIGHTS).read_bytes()
    assert report.parameters["unet"] == sum(v.numel() for v in load_file(micro / "unet" / WEIGHTS).values())
    assert load_pipeline(out).identity()["digest"] == report.digest
    assert not list((tmp_path / "new").glob(".*"))


def test_a_second_swap_is_no_work_and_another_pair_is_refused(micro: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    swap(micro, source, out)
    (out / "unet" / ".DS_Store").touch()
    assert swap(micro, source, out).existed
    with pytest.raises(OutputError, match=r"controlnet/diffusion_pytorch_model\.safetensors differs"):
        swap(micro, micro, out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt is not part of it"):
        swap(micro, source, out)
    (out / "notes.txt").unlink()
    (out / "model_index.json").write_text("{}")
    with pytest.raises(OutputError, match="model_index"):
        swap(micro, source, out)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        swap(micro, source, tmp_path / "file")


@pytest.mark.filterwarnings("ignore")  # diffusers and transformers warn about packages that are not needed here
def test_plain_diffusers_computes_the_same(micro: Path, source: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionControlNetPipeline

    out = swap(micro, source, tmp_path / "out").out
    theirs = StableDiffusionControlNetPipeline.from_pretrained(out)
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 77, 16, generator=generator)
    onehot = torch.rand(2, 20, 64, 64, generator=generator)
    time = torch.tensor([500, 20])
    with torch.no_grad():
        down, middle = theirs.controlnet(latents, time, text, onehot, return_dict=False)
        expected = theirs.unet(
            latents, time, text, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample
    with load_pipeline(out) as ours:
        found = ours.denoise(latents, time, text, ours.condition(onehot))
        assert torch.allclose(found, expected, atol=1e-5)


def test_models_that_do_not_fit(micro: Path, source: Path, like_embedded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ModelError, match="does not fit the UNet"):
        swap(micro, like_embedded, out)
    for change, words in (
        (lambda w: w.pop("controlnet_mid_block.bias"), r"1 missing \(controlnet_mid_block\.bias\)"),
        (lambda w: w.update(more=torch.zeros(2)), r"not in the config \(more\)"),
        (lambda w: w.update({"controlnet_mid_block.bias": torch.zeros(3)}), r"is \[3\], expected \[16\]"),
        (lambda w: w["controlnet_mid_block.bias"].fill_(torch.nan), "contains NaN"),
    ):
        broken = tmp_path / "broken"
        shutil.copytree(source / "controlnet", broken)
        weights = load_file(broken / WEIGHTS)
        change(weights)
        save_file(weights, broken / WEIGHTS)
        with pytest.raises(ModelError, match=words):
            swap(micro, broken, out)
        shutil.rmtree(broken)
    with pytest.raises(ModelError, match=r"unet has no |is missing"):
        swap(source / "unet", source, out)
    assert not out.exists() and not list(tmp_path.iterdir())


def test_a_residual_of_another_shape(micro: Path, source: Path, tmp_path: Path) -> None:
    """Residuals can differ although the widths match: here a block has no downsampler."""
    import json

    broken = tmp_path / "broken"
    shutil.copytree(source / "controlnet", broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"conditioning_embedding_out_channels": [4, 4, 4, 9]}))
    with pytest.raises(ModelError, match="do not fit its config"):
        swap(micro, broken, tmp_path / "out")


def test_failure_leaves_nothing(micro: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError, match="disk is full"):
        swap(micro, source, tmp_path / "out")
    assert not list(tmp_path.iterdir())
