"""Both passes with Stable Diffusion 2.1 and SDXL, and folders of these families that cannot be used."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.diffusion.noise import seeded_noise
from dgkit.diffusion.presets import Preset
from dgkit.diffusion.sampler import SceneRequest, sample
from dgkit.diffusion.style_swap import swap
from dgkit.errors import ModelError
from tests.models import make_family_model

WEIGHTS = "diffusion_pytorch_model.safetensors"


def scenes(count: int, side: int = 64) -> list[SceneRequest]:
    ids = np.random.default_rng(0).choice([0, 2, 10, 13, 255], (count, side // 8, side // 8)).astype(np.uint8)
    return [SceneRequest(label.repeat(8, 0).repeat(8, 1), f"road, car {seed}", seed) for seed, label in enumerate(ids)]


def test_batches_change_only_rounding(family_model: Path) -> None:
    preset, requests = Preset("quick", steps=2, stride=0.5, large_area=100_000), scenes(2)
    with load_pipeline(family_model) as pipeline:
        first, *others = [sample(pipeline, requests, preset, batch=batch) for batch in (8, 1, 3)]
        alone = sample(pipeline, requests[1:], preset)
    assert first[0].high_res is not None and first[0].high_res.shape == (128, 128, 3)
    for found in others:
        for one, other in zip(first, found, strict=True):
            assert np.abs(one.image.astype(int) - other.image).max() <= 1
    assert np.abs(first[1].image.astype(int) - alone[0].image).max() <= 1
    assert np.abs(first[0].image.astype(int) - first[1].image).max() > 20


def test_large_components_come_from_the_first_pass(family_model: Path) -> None:
    """In a large component of the label the initial noise of the second pass has no effect."""
    label = np.full((64, 64), 2, np.uint8)
    label[16:24, 40:48] = 13
    preset = Preset("p", steps=2, stride=0.5, large_area=64 * 64 // 2 * 64)

    def other(seed: int, purpose: str, shape: tuple[int, ...]) -> Tensor:
        return seeded_noise(seed + (purpose == "pass2"), purpose, shape)

    with load_pipeline(family_model) as pipeline:
        requests = [SceneRequest(label, "building, car", 5)]
        found = [sample(pipeline, requests, preset, noise=noise)[0].high_res for noise in (seeded_noise, other)]
    assert found[0] is not None and found[1] is not None
    changed = np.abs(found[0].astype(int) - found[1]).max(axis=2)
    inside = changed[32:48, 80:96].mean()
    outside = np.delete(changed, slice(16, 64), axis=0).mean()
    assert inside > 5 * outside, (inside, outside)  # the decoder mixes neighbouring cells


@pytest.mark.parametrize(
    ("side", "preset"), [(64, "exact:steps=2"), (64, "fast:steps=4,large_area=1000"), (48, "exact:steps=2")]
)
def test_the_sizes_are_those_of_a_window(sdxl_model: Path, side: int, preset: str) -> None:
    """A window of the second pass is an image of its own size: neither resized nor cropped."""
    found: set[tuple[float, ...]] = set()
    with load_pipeline(sdxl_model) as pipeline:
        runner = pipeline.runners["denoiser"]

        def record(**tensors: Tensor) -> dict[str, Tensor]:
            assert len(tensors["time_ids"]) == len(tensors["text_embeds"]) == len(tensors["text"])
            found.update(map(tuple, tensors["time_ids"].tolist()))
            return runner(**tensors)

        record.device = runner.device  # type: ignore[attr-defined]
        pipeline.runners["denoiser"] = record  # type: ignore[assignment]
        sample(pipeline, scenes(1, side), preset)
        pipeline.runners["denoiser"] = runner
    expected = {(64.0, 64.0, 0.0, 0.0, 64.0, 64.0)} | {(float(side), float(side), 0.0, 0.0, float(side), float(side))}
    assert found == expected


def test_an_empty_prompt_is_zeros(sdxl_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sdxl_model, tmp_path / "encoded"))
    change(folder / "model_index.json", force_zeros_for_empty_prompt=False)
    for model, zeros in ((sdxl_model, True), (folder, False)):
        with load_pipeline(model) as pipeline:
            found = pipeline.encode_text(["", "road"])
        assert [not value[0].any() for value in found.values()] == [zeros, zeros]
        assert all(value[1].any() for value in found.values())
    digests = {ModelFolder(model).digest() for model in (sdxl_model, folder)}
    assert len(digests) == 2


def test_the_digest_covers_the_second_text_encoder(sdxl_model: Path, tmp_path: Path) -> None:
    plain = ModelFolder(sdxl_model).digest()
    folder = make_family_model(tmp_path / "other", "sdxl", seed=1)
    for name in ("unet", "vae", "controlnet", "text_encoder"):
        shutil.rmtree(folder / name)
        shutil.copytree(sdxl_model / name, folder / name)
    assert ModelFolder(folder).digest() != plain
    shutil.copyfile(
        sdxl_model / "text_encoder_2" / "model.safetensors", folder / "text_encoder_2" / "model.safetensors"
    )
    assert ModelFolder(folder).digest() == plain
    change(folder / "tokenizer_2" / "tokenizer_config.json", pad_token=".")
    assert ModelFolder(folder).digest() != plain


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tokenizer_2": (lambda m: shutil.rmtree(m / "tokenizer_2"), r"has no tokenizer_2/"),
    "no text_encoder_2": (lambda m: shutil.rmtree(m / "text_encoder_2"), r"has no text_encoder_2/"),
    "second encoder without projection": (
        lambda m: change(m / "text_encoder_2" / "config.json", architectures=["CLIPTextModel"]),
        "describes a CLIPTextModel; expected CLIPTextModelWithProjection",
    ),
    "another pooled width": (
        lambda m: change(m / "text_encoder_2" / "config.json", projection_dim=24),
        "gives 24 pooled values; with 6 sizes of 8 values that is 72, but the UNet expects 68",
    ),
    "sizes of another kind": (
        lambda m: change(m / "unet" / "config.json", addition_time_embed_dim="x"),
        "of 'x' values",
    ),
    "another width": (
        lambda m: change(m / "text_encoder_2" / "config.json", hidden_size=32),
        "has width 48, but the UNet's attention expects 40",
    ),
    "tokens that the encoder lacks": (
        lambda m: change(m / "text_encoder_2" / "config.json", vocab_size=100),
        "has 210 tokens, but the vocabulary of the text encoder is 100",
    ),
    "a text encoder of the wrong class": (
        lambda m: change(m / "text_encoder" / "config.json", architectures=["T5EncoderModel"]),
        "describes a T5EncoderModel",
    ),
    "Stable Diffusion 3": (
        lambda m: (
            (m / "unet").rename(m / "transformer"),
            change(m / "model_index.json", _class_name="StableDiffusion3Pipeline"),
        ),
        "holds a StableDiffusion3Pipeline, which is not supported",
    ),
    "FLUX": (
        lambda m: (shutil.rmtree(m / "unet"), change(m / "model_index.json", _class_name="FluxPipeline")),
        "holds a FluxPipeline, which is not supported",
    ),
    "Qwen-Image without an index": (
        lambda m: ((m / "unet").rename(m / "transformer"), (m / "model_index.json").unlink()),
        "holds a model with a transformer, which is not supported",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_folders_that_cannot_be_used(sdxl_model: Path, tmp_path: Path, case: str) -> None:
    folder = Path(shutil.copytree(sdxl_model, tmp_path / "copy"))
    spoil, words = MISTAKES[case]
    spoil(folder)
    with pytest.raises(ModelError, match=words) as caught:
        ModelFolder(folder).tokenizer()
    assert "\n" not in caught.value.message + caught.value.hint
    if "not supported" in words:
        assert caught.value.hint == "supported: Stable Diffusion 1.x and 2.x, SDXL"


def test_a_controlnet_of_another_family(sdxl_model: Path, micro: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it is for a model of another size, the UNet for SDXL"):
        swap(sdxl_model, micro, tmp_path / "out")
    with pytest.raises(ModelError, match="it is for SDXL, the UNet for a model of another size"):
        swap(micro, sdxl_model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore")
def test_swap_writes_what_diffusers_loads(family_model: Path, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    sdxl = (family_model / "tokenizer_2").is_dir()
    other = make_family_model(tmp_path / "other", "sdxl" if sdxl else "sd21", seed=1)
    report = swap(family_model, other, tmp_path / "out")
    theirs = DiffusionPipeline.from_pretrained(report.out)
    assert type(theirs).__name__ == f"StableDiffusion{'XL' * sdxl}ControlNetPipeline"
    assert load_pipeline(report.out).identity()["digest"] == report.digest
    weights = (report.out / "controlnet" / WEIGHTS).read_bytes()
    assert weights == (other / "controlnet" / WEIGHTS).read_bytes() and torch.equal(
        theirs.unet.conv_in.weight, ModelFolder(family_model).part("unet").conv_in.weight
    )
    assert swap(family_model, other, tmp_path / "out").existed


def test_the_line_that_converts_pickles_survives_any_path(sdxl_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sdxl_model, tmp_path / """it's "a" $(touch x) `y` model"""))
    path = folder / "text_encoder_2" / "model.safetensors"
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()
    with pytest.raises(ModelError, match="has only pickled weights") as caught:
        ModelFolder(folder).part("text_encoder_2")
    words = shlex.split(caught.value.hint.removeprefix("convert: "))
    assert words[:2] == ["python", "-c"] and len(words) == 3
    exec(words[2])
    weights = ModelFolder(folder).part("text_encoder_2").state_dict()
    expected = ModelFolder(sdxl_model).part("text_encoder_2").state_dict()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_forms_of_a_folder_of_sdxl(sdxl_model: Path, tmp_path: Path) -> None:
    """Variants, shards, byte order marks, and tokenizers in one file, in the parts that only SDXL has too."""
    from transformers import CLIPTokenizer

    folder = Path(shutil.copytree(sdxl_model, tmp_path / "copy"))
    for part, suffix in (("unet", "non_ema"), ("vae", "fp16"), ("text_encoder", "fp16")):
        (path,) = (folder / part).glob("*.safetensors")
        path.rename(path.with_name(path.name.replace(".safe", f".{suffix}.safe")))
    whole = folder / "text_encoder_2" / "model.safetensors"
    names = sorted(load_file(whole))
    shards = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(shards.values()):
        own = {name: value for name, value in load_file(whole).items() if shards[name] == shard}
        save_file(own, whole.parent / shard)
    whole.unlink()
    (whole.parent / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer = CLIPTokenizer.from_pretrained(folder / name, local_files_only=True)
        shutil.rmtree(folder / name)
        tokenizer.save_pretrained(folder / name)
    for path in folder.rglob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    swap(folder, sdxl_model, tmp_path / "out")
    with load_pipeline(sdxl_model) as plain, load_pipeline(folder) as forms, load_pipeline(tmp_path / "out") as joined:
        prompts, preset = ["a road, in snowy weather."], Preset("quick", steps=1, two_pass=False)
        expected = plain.encode_text(prompts)
        for other in (forms, joined):
            found = other.encode_text(prompts)
            assert all(torch.equal(found[name], value) for name, value in expected.items())
            pictures = [sample(pipeline, scenes(1), preset)[0].image for pipeline in (plain, other)]
            assert np.array_equal(*pictures)
    (folder / "text_encoder_2" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00002.safetensors is missing, a shard of"):
        ModelFolder(folder).part("text_encoder_2")
