"""Training the UNet and the ControlNet of SDXL and Stable Diffusion 2.1, on tiny models of their architecture."""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.presets import Preset
from dgkit.diffusion.sampler import SceneRequest, sample
from dgkit.diffusion.style_swap import swap
from dgkit.errors import DgkitError
from dgkit.training.data.image_files import read_image
from dgkit.training.diffusion.commands import train_controlnet, train_ldm
from dgkit.training.diffusion.diffusion_recipes import ControlNetTraining, LdmTraining, Objective
from dgkit.training.diffusion.noising import Noising
from dgkit.training.diffusion.starting_model import FolderModel

TRAIN = {"steps": 2, "batch": 2, "lr": 1e-3, "warmup": 0, "checkpoint_every": 1, "validate_every": 2, "log_every": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three labelled images, 96 x 160 pixels."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for i in range(3):
        label = rng.choice([0, 2, 10, 13, 255], (12, 20)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        for name, array in (("labels", label), ("images", rng.integers(0, 256, (96, 160, 3)).astype(np.uint8))):
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(array).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))


def _feed(data, kind="labels", **changes):
    root = data if kind == "labels" else data / "images"
    return {"rows": [{"dataset": kind, "root": root, "rescale": (0.75,)}], "min_pixels": 50, **changes}


def _recipe(cls, model, out, data, **changes):
    return cls.model_validate({"model": str(model), "out": out, "data": data, "train": TRAIN, **changes})


def _noising(model, data, **changes):
    from dgkit.training.data.data_rows import FeedConfig, build_feed

    feed = build_feed(FeedConfig.model_validate(data), 64, 0)
    return Noising(FolderModel(model), feed, Objective(), seed=0, **changes)


def test_the_sizes_are_those_of_the_crop_as_drawn(sdxl_model, data):
    """Height and width of the file, the corner in the rescaled image, and the size of the crop."""
    for kind in ("images", "labels"):
        noising = _noising(sdxl_model, _feed(data, kind))
        corners = set()
        for index in range(4):
            sample, example = noising.sample(index), noising.feed.draw(np.random.default_rng([0, index]))
            height, width, top, left, *target = sample["time_ids"].int().tolist()
            assert (height, width, *target) == (96, 160, 64, 64) and sample["time_ids"].dtype == torch.float32
            name = example.source.replace("labels", "images")
            whole = read_image(data / "images" / name.rpartition("/")[2], 0.75)
            assert np.array_equal(sample["image"].permute(1, 2, 0), whole[top : top + 64, left : left + 64])
            corners.add((top, left))
        assert len(corners) > 1


def test_an_empty_caption_is_zeros_and_the_cache_holds_both_embeddings(sdxl_model, data, tmp_path):
    plain = _noising(sdxl_model, _feed(data))
    cached = _noising(sdxl_model, _feed(data), text_cache=tmp_path / "text")
    dropped = _noising(sdxl_model, _feed(data, empty_prompt=1.0))
    for index in range(2):
        found, again, empty = (
            noising.batch({key: value[None] for key, value in noising.sample(index).items()})
            for noising in (plain, cached, dropped)
        )
        assert found.text.shape == (1, 16, 40) and found.added["text_embeds"].shape == (1, 20)
        assert torch.allclose(found.text, again.text, atol=2e-3) and found.text.any()
        assert torch.allclose(found.added["text_embeds"], again.added["text_embeds"], atol=2e-3)
        assert torch.equal(found.added["time_ids"], again.added["time_ids"])
        assert not empty.text.any() and not empty.added["text_embeds"].any()
    assert cached.identity != plain.identity


def test_a_unet_resumes_to_the_same_weights(family_model, data, tmp_path):
    def stop(stage, done, total, note=""):
        if (stage, done) == ("ldm", 1):
            raise DgkitError("stop")

    settings = {"validation": {"prompts": ("road, car",), "steps": 1, "samples": 1}, "cache_text": True}
    feed = _feed(data, "images", cache_latents=True)
    recipes = [_recipe(LdmTraining, family_model, tmp_path / name, feed, **settings) for name in ("whole", "cut")]
    result = train_ldm(recipes[0])
    with pytest.raises(DgkitError, match="stop"):
        train_ldm(recipes[1], stop)
    train_ldm(recipes[1])
    read = diffusers.UNet2DConditionModel.from_pretrained
    folders = (family_model, tmp_path / "whole", tmp_path / "cut")
    before, whole, cut = (read(path / "unet").state_dict() for path in folders)
    assert np.isfinite(result["loss"]) and all(torch.equal(whole[name], cut[name]) for name in whole)
    assert any(not torch.equal(before[name], whole[name]) for name in whole)
    for part in ("text_encoder_2/model.safetensors", "tokenizer_2/vocab.json"):
        assert (tmp_path / "whole" / part).is_file() == (family_model / part).is_file()
    assert (tmp_path / "whole/training/validation/step_00000002_prompt_0.png").is_file()


def test_a_controlnet_is_trained_swapped_and_used(family_model, data, tmp_path):
    validation = {"labels": [data / "labels" / "0.png"], "styles": ("night",), "steps": 1, "samples": 1}
    feed = _feed(data, empty_prompt=0.5)
    recipe = _recipe(ControlNetTraining, family_model, tmp_path / "cn", feed, validation=validation,
                     gradient_checkpointing=True)  # fmt: skip
    assert np.isfinite(train_controlnet(recipe)["loss"])
    controlnet = diffusers.ControlNetModel.from_pretrained(tmp_path / "cn")
    assert controlnet.config.conditioning_channels == 20
    assert any(bool(layer.weight.any()) for layer in controlnet.controlnet_down_blocks)
    swap(family_model, tmp_path / "cn", tmp_path / "out")
    with load_pipeline(tmp_path / "out") as pipeline:
        request = SceneRequest(np.zeros((64, 64), np.uint8), "road", 1)
        (found,) = sample(pipeline, [request], Preset("short", steps=1, two_pass=False))
    assert found.image.shape == (64, 64, 3)
