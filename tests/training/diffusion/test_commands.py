"""``train_vae|ldm|controlnet`` on a micro model: results load in diffusers and dgkit, and resuming is exact."""

import contextlib
import json
import os
import shutil

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.presets import Preset
from dgkit.diffusion.sampler import SceneRequest, sample
from dgkit.diffusion.style_swap import swap
from dgkit.errors import DgkitError, InputError, ModelError, OutputError, UsageError
from dgkit.taxonomies import CAMVID11
from dgkit.training.diffusion import commands
from dgkit.training.diffusion.commands import train_controlnet, train_ldm, train_vae
from dgkit.training.diffusion.diffusion_recipes import ControlNetTraining, LdmTraining, VaeTraining
from dgkit.training.diffusion.starting_model import find_training_model, read_controlnet
from tests.models import make_micro_model
from tests.segformers import save_narrow_segformer

TRAIN = {"steps": 3, "batch": 2, "lr": 1e-3, "warmup": 0, "ema": 0.5, "checkpoint_every": 2, "validate_every": 3}
TRAIN |= {"log_every": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A micro model in Stable Diffusion's folder layout, and four labelled images."""
    folder = tmp_path_factory.mktemp("commands")
    make_micro_model(folder / "base", with_controlnet=False)
    rng = np.random.default_rng(0)
    for i in range(4):
        label = rng.choice([0, 1, 2, 8, 10, 13, 255], (12, 20)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        for name, array in (("labels", label), ("images", rng.integers(0, 256, (96, 160, 3)).astype(np.uint8))):
            (folder / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / "data" / name / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def own_cache(folder, monkeypatch):
    monkeypatch.setenv("DGKIT_CACHE", str(folder / "cache"))


def _data(folder, **changes):
    return {"rows": [{"dataset": "labels", "root": folder / "data"}], "min_pixels": 50, **changes}


def _ldm(folder, out, **changes):
    rows = {"rows": [{"dataset": "images", "root": folder / "data" / "images", "rescale": (0.75, 1.0)}]}
    values = {"model": str(folder / "base"), "out": folder / out, "data": rows, "train": TRAIN, **changes}
    return LdmTraining.model_validate(values)


def _controlnet(folder, out, **changes):
    values = {"model": str(folder / "base"), "out": folder / out, "data": _data(folder), "train": TRAIN, **changes}
    return ControlNetTraining.model_validate(values)


def _weights(kind, path):
    return kind.from_pretrained(path).state_dict()


def _picture(path):
    with Image.open(path) as picture:
        return np.array(picture)


def test_ldm_writes_a_pipeline_folder_with_another_unet_and_the_same_rest(folder):
    prompts = ("roads building sky person vegetation car",)
    result = train_ldm(_ldm(folder, "ldm", validation={"prompts": prompts, "steps": 2, "samples": 2}))
    out = folder / "ldm"
    assert result["steps"] == 3 and np.isfinite(result["loss"]) and result["out"] == str(out)
    before, after = (_weights(diffusers.UNet2DConditionModel, path / "unet") for path in (folder / "base", out))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for part in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "tokenizer/vocab.json"):
        assert (out / part).read_bytes() == (folder / "base" / part).read_bytes()
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(out)
    pipeline.set_progress_bar_config(disable=True)
    assert np.isfinite(pipeline("road", num_inference_steps=1, height=64, width=64, output_type="np").images).all()
    values = (out / "training" / "validation.csv").read_text()
    assert "3,loss," in values and "3,text_effect," in values
    assert _picture(out / "training" / "validation" / "step_00000003_prompt_0.png").shape == (64, 64, 3)


def test_controlnet_loads_in_diffusers_and_after_a_swap_in_dgkit(folder):
    validation = {
        "labels": [folder / "data" / "labels" / "0.png"],
        "styles": ("none", "night"),
        "steps": 2,
        "samples": 2,
    }
    prior = make_micro_model(folder / "prior", with_controlnet=False, seed=5)
    validation["prior"] = str(prior)
    recipe = _controlnet(folder, "controlnet", gradient_checkpointing=True, zero_conv_lr=4.0, validation=validation)
    train_controlnet(recipe)
    out = folder / "controlnet"
    controlnet = diffusers.ControlNetModel.from_pretrained(out)
    assert controlnet.config.conditioning_channels == 20
    assert any(bool(layer.weight.any()) for layer in controlnet.controlnet_down_blocks)
    assert _picture(out / "training" / "validation" / "step_00000003_swapped_0.png").shape == (64, 3 * 64, 3)
    assert str(folder) not in (out / "config.json").read_text()
    swap(prior, out, folder / "swapped")
    label = np.zeros((64, 64), np.uint8)
    with load_pipeline(folder / "swapped") as pipeline:
        (picture,) = sample(pipeline, [SceneRequest(label, "road", 1)], Preset("short", steps=1, stride=1.0))
    assert picture.image.shape == (64, 64, 3)


def test_validation_images_are_painted_on_the_prior(folder):
    validation = {"labels": [folder / "data" / "labels" / "0.png"], "styles": ("none",), "steps": 2, "samples": 0}
    pictures = []
    for name, prior in (("own", None), ("other", make_micro_model(folder / "another", with_controlnet=False, seed=9))):
        prior = None if prior is None else str(prior)
        train_controlnet(_controlnet(folder, f"look-{name}", validation={**validation, "prior": prior}))
        path = folder / f"look-{name}" / "training" / "validation" / "step_00000003_swapped_0.png"
        pictures.append(_picture(path))
    networks = [_weights(diffusers.ControlNetModel, folder / f"look-{name}") for name in ("own", "other")]
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])
    assert np.array_equal(pictures[0][:, :64], pictures[1][:, :64])
    assert not np.array_equal(pictures[0][:, 64:], pictures[1][:, 64:])


def test_an_interrupted_training_ends_in_the_same_weights(folder):
    def stop(stage, done, total, note=""):
        if (stage, done) == ("controlnet", 2):
            raise DgkitError("stop")

    train_controlnet(_controlnet(folder, "whole"))
    with pytest.raises(DgkitError, match="stop"):
        train_controlnet(_controlnet(folder, "cut"), stop)
    assert not (folder / "cut" / "config.json").exists()
    train_controlnet(_controlnet(folder, "cut"))
    whole, cut = (_weights(diffusers.ControlNetModel, folder / name) for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_cached_latents_and_captions_train_too(folder):
    data = _data(folder, cache_latents=True)
    result = train_controlnet(_controlnet(folder, "cached", data=data, cache_text=True))
    assert np.isfinite(result["loss"])
    assert list((folder / "cache").rglob("moments.f16")) and list((folder / "cache").rglob("text-*"))


def test_lora_trains_adapters_and_merges_them(folder):
    train_ldm(_ldm(folder, "lora", lora={"rank": 2, "alpha": 2.0}, validation={"samples": 0}))
    before, after = (_weights(diffusers.UNet2DConditionModel, folder / name / "unet") for name in ("base", "lora"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.split(".")[-2] in ("to_q", "to_k", "to_v", "0") for name in changed)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder / "base")
    pipeline.load_lora_weights(folder / "lora" / "lora")
    pipeline.fuse_lora()
    pipeline.unet.unload_lora()
    fused = pipeline.unet.state_dict()
    assert all(torch.allclose(fused[name], after[name], atol=1e-6) for name in after)


def test_lora_targets_without_a_layer_are_named(folder):
    with pytest.raises(UsageError, match="to_nothing"):
        train_ldm(_ldm(folder, "lora-wrong", lora={"targets": ("to_nothing",)}))


def test_vae_writes_an_autoencoder(folder):
    config = {"model": str(folder / "base"), "out": folder / "vae", "data": _data(folder), "train": TRAIN}
    train_vae(VaeTraining.model_validate(config))
    before, after = (_weights(diffusers.AutoencoderKL, path) for path in (folder / "base" / "vae", folder / "vae"))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"encoder", "decoder", "quant_conv", "post_quant_conv"}
    assert "3,psnr," in (folder / "vae" / "training" / "validation.csv").read_text()


def test_another_recipe_in_the_same_folder_is_refused(folder):
    train_controlnet(_controlnet(folder, "taken"))
    words = r"holds a training with data\.rare_share=1\.0; this recipe has data\.rare_share=0\.5"
    with pytest.raises(UsageError, match=words):
        train_controlnet(_controlnet(folder, "taken", data=_data(folder, rare_share=0.5)))


def test_a_folder_with_other_files_is_refused(folder):
    with pytest.raises(OutputError, match="is not a training folder"):
        train_controlnet(_controlnet(folder, "data"))


def test_a_size_of_partial_latent_cells_is_refused(folder):
    with pytest.raises(UsageError, match="size=60"):
        train_ldm(_ldm(folder, "size", size=60))


def test_the_resolved_recipe_and_the_time_are_in_the_output_folder(folder):
    train_ldm(_ldm(folder, "noted", validation={"samples": 0}))
    assert "steps: 3" in (folder / "noted" / "config.yaml").read_text()
    assert json.loads((folder / "noted" / "training" / "times.json").read_text())["ldm"] > 0


def _vae(folder, out, **changes):
    values = {"model": str(folder / "base"), "out": folder / out, "data": _data(folder), "train": TRAIN, **changes}
    return VaeTraining.model_validate(values)


def _files(out):
    """Return the bytes of all files of a result."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.relative_to(out).parts[0] not in ("training", "config.yaml")
    }


@pytest.mark.parametrize(("train", "config"), [(train_vae, _vae), (train_ldm, _ldm), (train_controlnet, _controlnet)])
def test_a_finished_training_computes_nothing_and_a_damaged_result_is_written_again(folder, train, config, monkeypatch):
    name = f"again-{train.__name__}"
    recipe = config(folder, name, validation={"samples": 0})
    first = train(recipe)
    result = _files(folder / name)
    assert first["finished"] is False
    with monkeypatch.context() as patched:
        patched.setattr(commands, "fit", None)
        patched.setattr(commands, "find_training_model", None)
        assert train(recipe) == {**first, "finished": True}
    damaged = max((path for path in (folder / name).rglob("*.safetensors") if "training" not in path.parts), key=str)
    broken = damaged.read_bytes()[:-1] + b"?"
    damaged.unlink()  # perhaps a hard link to a file of the starting model
    damaged.write_bytes(broken)
    notices: list[str] = []
    assert train(recipe, notify=notices.append)["finished"] is False
    assert _files(folder / name) == result
    assert "is damaged and is written again" in notices[0] and damaged.name in notices[0]


def test_a_result_without_a_record_is_written_again(folder):
    """Of an earlier version, or of a run that was killed just before it: the parts are hard links to the same files."""
    train_ldm(_ldm(folder, "unrecorded", validation={"samples": 0}))
    result = _files(folder / "unrecorded")
    (folder / "unrecorded" / "training" / "result.json").unlink()
    train_ldm(_ldm(folder, "unrecorded", validation={"samples": 0}))
    assert _files(folder / "unrecorded") == result
    left = sorted(path.name for path in (folder / "unrecorded" / "training").iterdir())
    assert left == ["checkpoints", "log.csv", "logs", "result.json", "times.json", "validation", "validation.csv"]


@pytest.mark.parametrize("operation", range(0, 24, 3))
def test_a_stop_at_any_moment_while_the_result_is_written_loses_nothing(folder, monkeypatch, operation):
    recipe = _ldm(folder, "stopped", train={**TRAIN, "steps": 1, "validate_every": 0}, lora={"rank": 2})
    (folder / "stopped" / "training" / "result.json").unlink(missing_ok=True)
    if not (folder / "stopped").exists():
        train_ldm(recipe)
        (folder / "stopped" / "training" / "result.json").unlink()
    left = [operation]

    def dying(function):
        def wrapper(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise DgkitError("stop")
            return function(*args, **kwargs)

        return wrapper

    with monkeypatch.context() as patched:
        for owner, name in (*((os, name) for name in ("replace", "rename", "rmdir", "link")), (shutil, "rmtree")):
            patched.setattr(owner, name, dying(getattr(owner, name)))
        with contextlib.suppress(DgkitError):
            train_ldm(recipe)
    assert train_ldm(recipe)["loss"] > 0
    result = _files(folder / "stopped")
    assert "model_index.json" in result and "lora/pytorch_lora_weights.safetensors" in result
    diffusers.StableDiffusionPipeline.from_pretrained(folder / "stopped")
    assert not [path for path in (folder / "stopped").rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "no/such-model"},
        {"data": {"rows": [{"dataset": "images", "root": "nowhere"}]}},
        {"size": 60},
        {"lora": {"targets": ("to_nothing",)}},
        {"train": {**TRAIN, "batch": 3, "accumulation": 2}},
        {"train": {**TRAIN, "precision": "fp16"}},
    ],
)
def test_a_failed_start_leaves_nothing_and_the_corrected_recipe_is_accepted(folder, changes):
    if torch.cuda.is_available() and "precision" in changes.get("train", ()):
        pytest.skip("fp16 is allowed on a GPU")
    with pytest.raises(DgkitError):
        train_ldm(_ldm(folder, "typo", **changes))
    assert not (folder / "typo").exists()


def test_a_second_training_is_refused_while_one_runs(folder):
    def second(stage, done, total, note=""):
        if stage == "vae":
            with pytest.raises(OutputError, match="another run is writing to"):
                train_vae(_vae(folder, "busy"))

    assert train_vae(_vae(folder, "busy"), second)["finished"] is False
    assert len((folder / "busy" / "training" / "log.csv").read_text().splitlines()) == 1 + TRAIN["steps"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("log.csv", "step,loss\nnot a step,3\n"), ("times.json", ""), ("times.json", "[" * 10_000)],
)
def test_a_file_of_the_training_that_cannot_be_read_is_one_line(folder, name, text):
    out = f"broken-{name}-{len(text)}"
    (folder / out / "training").mkdir(parents=True)
    (folder / out / "config.yaml").write_text("{}")
    (folder / out / "training" / name).write_text(text)
    with pytest.raises(InputError, match=name):
        train_vae(_vae(folder, out))


def test_a_resumed_training_needs_the_same_frozen_networks_and_they_must_be_finite(folder, tmp_path):
    base = make_micro_model(tmp_path / "base", with_controlnet=False)
    train = {**TRAIN, "steps": 2, "validate_every": 0}
    train_controlnet(_controlnet(folder, "frozen", model=str(base), train=train))
    longer = _controlnet(folder, "frozen", model=str(base), train={**train, "steps": 3})
    make_micro_model(tmp_path / "other", with_controlnet=False, seed=3)
    shutil.rmtree(base / "vae")
    shutil.copytree(tmp_path / "other" / "vae", base / "vae")
    with pytest.raises(UsageError, match=r"the frozen networks are not those that .*step_00000002 was trained with"):
        train_controlnet(longer)
    path = base / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"unet.*contains NaN or infinity"):
        train_controlnet(longer)


def test_a_reward_training_starts_from_a_controlnet_and_resumes_exactly(folder, tmp_path):
    start, teacher = make_micro_model(tmp_path / "start"), save_narrow_segformer(tmp_path / "teacher")
    changes = {
        "controlnet": str(start),
        "objective": {"reward": {"teacher": teacher, "t": (20, 200), "share": 0.5, "class_weights": {"car": 3}}},
        "train": {**TRAIN, "validate_every": 0},
    }
    train_controlnet(_controlnet(folder, "rewarded", **changes))
    short = _controlnet(folder, "resumed", **changes)
    train_controlnet(short.model_copy(update={"train": short.train.model_copy(update={"steps": 2})}))
    train_controlnet(short)
    whole, again = (_weights(diffusers.ControlNetModel, folder / name) for name in ("rewarded", "resumed"))
    before = _weights(diffusers.ControlNetModel, start / "controlnet")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    config, weights = (folder / "rewarded" / name for name in ("config.json", "diffusion_pytorch_model.safetensors"))
    assert weights.stat().st_mode == config.stat().st_mode  # not for their owner alone
    moved = max(float((value - before[name]).abs().max()) for name, value in whole.items())
    assert 0 < moved < 0.01  # near the ControlNet that it started from, whose layers are far from zero
    changes["objective"]["reward"]["weight"] = 0.1
    with pytest.raises(UsageError, match=r"objective.reward.weight=0.5; this recipe has objective.reward.weight=0.1"):
        train_controlnet(_controlnet(folder, "resumed", **changes))
    with pytest.raises(InputError, match=r"the ControlNet .* cannot be used with the classes of camvid11"):
        read_controlnet(str(start), CAMVID11, find_training_model(str(start)).unet())
    other = make_micro_model(tmp_path / "other", latent_channels=8)
    with pytest.raises(ModelError, match=r"does not fit the UNet: its in_channels is 8, not 4"):
        train_controlnet(_controlnet(folder, "unfit", controlnet=str(other)))
