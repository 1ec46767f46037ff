"""The whole training in 48 steps, from scratch to a model folder that dgkit and diffusers load."""

import json
import shutil

import diffusers
import numpy as np
import pytest
import torch

from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.presets import Preset
from dgkit.diffusion.sampler import SceneRequest, sample
from dgkit.errors import DgkitError, ModelError, OutputError, UsageError
from dgkit.training.city.city_recipe import CityRecipe
from dgkit.training.city.scene_latents import cache_latents
from dgkit.training.city.stages import CityTraining
from dgkit.training.data.rendered_scenes import open_scenes
from dgkit.training.loop.training_folder import sole_training
from dgkit.world import render

STEPS = {"vae": 12, "unet": 8, "finetune": 4, "controlnet": 6, "decoder": 12, "reward": 4}
STAGE = {"batch": 1, "checkpoint_every": 4, "validate_every": 1000, "warmup": 2}
RECIPE = CityRecipe.model_validate(
    {
        "height": 64,
        "workers": 1,
        "prior": {"zoom1": 3, "zoom2": 2},
        "source": {"zoom1": 3, "zoom2": 2},
        **{name: {**STAGE, "steps": steps} for name, steps in STEPS.items()},
        "vae": {**STAGE, "steps": STEPS["vae"], "crop": 32},
        "decoder": {**STAGE, "steps": STEPS["decoder"], "crop": 32},
        "reward": {
            **STAGE,
            "steps": STEPS["reward"],
            "pictures": 3,
            "lr": 1e-3,
            "teacher": {"steps": 2, "batch": 2, "crop": 32, "warmup": 1, "encoder": None},
        },
    }
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A training that was interrupted in the UNet stage and finished by the same call."""
    work = tmp_path_factory.mktemp("city")

    def stop(stage: str, done: float, total: float, note: str = "") -> None:
        if (stage, done) == ("unet", 5):
            raise DgkitError("stop")

    with pytest.raises(DgkitError):
        CityTraining(work, RECIPE, stop).run()
    CityTraining(work, RECIPE).run()
    return work


def test_the_model_generates_with_dgkit(work):
    label = render("source", 5, 0, height=64, width=128).label[:, :64]
    with load_pipeline(work / "model") as pipeline:
        assert (pipeline.size, pipeline.vae_factor, pipeline.tile) == (64, 8, 8)
        assert pipeline.defaults.guidance_scale == RECIPE.guidance_scale
        preset = Preset("short", steps=2, stride=1.0)
        (result,) = sample(pipeline, [SceneRequest(label, "road sky, in snowy weather.", 1)], preset)
    assert result.image.shape == (64, 64, 3)
    assert result.image.std() > 0


def test_the_model_loads_in_plain_diffusers(work):
    controlnet = diffusers.ControlNetModel.from_pretrained(work / "model", subfolder="controlnet")
    assert controlnet.config.conditioning_channels == 20
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(work / "model").to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("road", num_inference_steps=1, height=64, width=64, output_type="np").images
    assert image.shape == (1, 64, 64, 3)
    assert np.isfinite(image).all()


def test_the_prior_unet_is_shipped_and_the_fine_tuned_one_is_not(work):
    def weights(folder):
        return diffusers.UNet2DConditionModel.from_pretrained(folder).conv_in.weight.detach()

    shipped = weights(work / "model" / "unet")
    assert torch.equal(shipped, weights(work / "unet" / "finished").half().float())
    assert not torch.equal(shipped, weights(work / "finetune" / "finished").half().float())


def test_the_model_does_not_contain_the_path_of_its_training(work):
    texts = [path.read_text() for path in (work / "model").rglob("*.json")]
    assert len(texts) >= 7
    assert not [text for text in texts if str(work) in text]


def test_every_stage_keeps_its_log(work):
    for stage, figure in (
        ("vae", "psnr"),
        ("unet", "text_effect"),
        ("finetune", "loss"),
        ("controlnet", "loss"),
        ("decoder", "psnr_0.3"),
    ):
        steps = STEPS[stage]
        assert (work / stage / "log.csv").read_text().splitlines()[-1].startswith(f"{steps},")
        assert f"{steps},{figure}," in (work / stage / "validation.csv").read_text()
    assert (work / "controlnet" / "validation" / "step_00000006_swapped_0.png").exists()


def test_the_time_of_every_stage_is_summed_over_interruptions(work):
    times = json.loads((work / "times.json").read_text())
    assert set(times) >= {
        "scenes/prior1",
        "latents/source",
        "vae",
        "unet",
        "finetune",
        "controlnet",
        "decoder",
        "reward",
    }
    assert all(seconds > 0 for stage, seconds in times.items() if "/" not in stage)


def test_the_decoder_is_the_last_stage_and_keeps_the_latents(work):
    def weights(folder):
        return diffusers.AutoencoderKL.from_pretrained(folder).state_dict()

    first, last, shipped = (weights(work / name) for name in ("vae/finished", "decoder/finished", "model/vae"))
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], last[name])}
    assert changed == {"decoder"}
    assert all(torch.equal(last[name].half(), shipped[name].half()) for name in last)


def test_the_reward_tunes_the_controlnet_alone(work):
    def weights(folder):
        return diffusers.ControlNetModel.from_pretrained(folder).state_dict()

    first, last, shipped = (
        weights(work / name) for name in ("controlnet/finished", "reward/finished", "model/controlnet")
    )
    assert any(not torch.equal(first[name], last[name]) for name in first)
    assert all(torch.equal(last[name].half().float(), shipped[name].float()) for name in last)
    with np.load(work / "reward" / "pictures.npz") as pictures:
        assert pictures["images"].shape == (3, 64, 64, 3) and len(set(pictures["prompts"].tolist())) == 3
    before, after = (
        work / name / "unet" / "diffusion_pytorch_model.safetensors" for name in ("before_reward", "model")
    )
    assert before.read_bytes() == after.read_bytes()


def test_a_resumed_reward_equals_an_uninterrupted_one(work, tmp_path):
    def stop(stage, done, total, note=""):
        if (stage, done) == ("reward", 3):
            raise DgkitError("stop")

    copy = tmp_path / "city"
    shutil.copytree(work, copy, ignore=shutil.ignore_patterns("reward", "model", "result.json"))
    for name in ("vae", "unet", "finetune", "controlnet", "decoder"):
        shutil.copy(work / name / "result.json", copy / name / "result.json")
    with pytest.raises(DgkitError, match="stop"):
        CityTraining(copy, RECIPE, stop).run()
    CityTraining(copy, RECIPE).run()
    name = "reward/finished/diffusion_pytorch_model.safetensors"
    assert (copy / name).read_bytes() == (work / name).read_bytes()


def test_a_finished_model_is_not_computed_again(work, monkeypatch):
    monkeypatch.setattr(CityTraining, "_train", None)
    assert CityTraining(work, RECIPE).run() == work / "model"
    assert CityTraining(work, RECIPE).finished()


def test_another_recipe_is_refused(work):
    changed = RECIPE.model_copy(update={"seed": 7})
    with pytest.raises(UsageError, match="holds a training with seed=0; this recipe has seed=7"):
        CityTraining(work, changed).run()
    longer = RECIPE.model_copy(update={"unet": RECIPE.unet.model_copy(update={"steps": 50})})
    with pytest.raises(UsageError, match=r"is finished with steps=8; this recipe has unet\.steps=50"):
        CityTraining(work, longer)._stage("unet", None)


def test_a_damaged_stage_is_named(work):
    path = work / "unet" / "finished" / "diffusion_pytorch_model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        with pytest.raises(ModelError, match=r"unet is damaged: .*safetensors differs from the SHA-256") as caught:
            CityTraining(work, RECIPE)._stage("unet", None)
    finally:
        path.write_bytes(data)
    assert caught.value.hint == f"delete {work / 'unet' / 'finished'} to write it again from the last checkpoint"


def test_a_stage_of_an_earlier_version_must_be_finite(work, tmp_path):
    unet = diffusers.UNet2DConditionModel.from_pretrained(work / "unet" / "finished")
    with torch.no_grad():
        next(unet.parameters())[0] = float("nan")
    unet.save_pretrained(tmp_path / "unet" / "finished")
    with pytest.raises(ModelError, match="holds values that are not finite"):
        CityTraining(tmp_path, RECIPE)._finished("unet", diffusers.UNet2DConditionModel)


def test_damaged_latents_are_computed_again_and_plain_ones_accepted(work):
    path = work / "scenes" / "prior1" / "latents.npy"
    data, record = path.read_bytes(), path.with_suffix(".json")
    vae = diffusers.AutoencoderKL.from_pretrained(work / "vae" / "finished")
    cache = open_scenes(path.parent)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    cache_latents(vae, cache, path)
    assert path.read_bytes() == data
    record.unlink()  # an earlier version
    stamp = path.stat().st_mtime_ns
    cache_latents(vae, cache, path)
    assert path.stat().st_mtime_ns == stamp and record.exists()


def test_a_second_training_is_refused(work):
    with sole_training(work), pytest.raises(OutputError, match="another run is writing to"):
        CityTraining(work, RECIPE).run()
