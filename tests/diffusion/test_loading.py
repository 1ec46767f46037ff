from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dgkit.diffusion import hub
from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.presets import Preset
from dgkit.diffusion.sampler import SceneRequest, sample
from dgkit.errors import DgkitError, ModelError, UsageError
from tests.models import make_micro_model

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


def scene(size: int, prompt: str = "road, in snowy weather.") -> SceneRequest:
    label = np.random.default_rng(0).choice([0, 2, 10, 13, 255], (size // 8, size // 8)).astype(np.uint8)
    return SceneRequest(label.repeat(8, 0).repeat(8, 1), prompt, 0)


def open_and_close(folder: Path, **settings: str) -> None:
    with load_pipeline(folder, **settings):
        pass


def test_info_of_a_model(micro: Path, like_embedded: Path) -> None:
    pipeline = load_pipeline(micro)
    assert (pipeline.size, pipeline.vae_factor, pipeline.tile, pipeline.latent_channels) == (64, 8, 8, 4)
    assert pipeline.defaults.guidance_scale is None and pipeline.info.text_length == 77
    embedded = load_pipeline(str(like_embedded))
    assert (embedded.latent_channels, embedded.info.text_length) == (8, 28)
    assert embedded.defaults.guidance_scale == 3.0 and embedded.defaults.label_height == 256


@pytest.mark.parametrize("factor", [4, 8])
def test_samples_with_other_architectures(like_embedded: Path, tmp_path: Path, factor: int) -> None:
    folder = like_embedded if factor == 8 else make_micro_model(tmp_path / "four", vae_factor=4, sample_size=16)
    with load_pipeline(folder) as pipeline:
        assert pipeline.size == 64 and pipeline.vae_factor == factor
        result = sample(pipeline, [scene(64)], Preset("quick", steps=2, large_area=2000))[0]
    assert result.image.shape == (64, 64, 3) and len(np.unique(result.image)) > 10


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_lower_precision_is_close(micro: Path, dtype: str) -> None:
    images = []
    for name in ("fp32", dtype):
        with load_pipeline(micro, dtype=name) as pipeline:
            encoders = [pipeline.runners[part].dtype_name for part in ("text_encoder", "vae_encoder")]
            assert encoders == ["fp32", "fp32" if name == "fp16" else name]
            images.append(sample(pipeline, [scene(64)], Preset("quick", steps=2, guidance_scale=2.0))[0].image)
    difference = np.abs(images[0].astype(int) - images[1])
    assert difference.max() > 0 and difference.mean() < 4


def test_prompt_and_label_have_an_effect(micro: Path) -> None:
    base = scene(64)
    requests = [base, SceneRequest(base.label, "night", 0), SceneRequest(np.roll(base.label, 16, 0), base.prompt, 0)]
    with load_pipeline(micro) as pipeline:
        images = [r.image.astype(int) for r in sample(pipeline, requests, Preset("one", steps=2, two_pass=False))]
    assert np.abs(images[0] - images[1]).max() > 0
    assert np.abs(images[0] - images[2]).max() > 2


def test_identity_follows_the_weights(micro: Path, copy: Path) -> None:
    same, other = load_pipeline(micro).identity(), load_pipeline(copy).identity()
    assert same["digest"] == other["digest"] and same["engine"] == "torch" and same["dtype"] == "fp32"
    weights = load_file(copy / UNET)
    weights["conv_in.bias"] += 1.0
    save_file(weights, copy / UNET)
    assert load_pipeline(copy).identity()["digest"] != same["digest"]


def test_opens_again(micro: Path) -> None:
    pipeline = load_pipeline(micro)
    images = []
    for _ in range(2):
        with pipeline:
            images.append(sample(pipeline, [scene(64)], Preset("one", steps=1, two_pass=False))[0].image)
    assert np.array_equal(*images)


def test_controlnet_of_another_folder(micro: Path, tmp_path: Path) -> None:
    other = make_micro_model(tmp_path / "other", seed=1)
    shutil.rmtree(other / "unet")
    for source in (other, other / "controlnet", str(other)):
        open_and_close(micro, controlnet=source)
    digest = load_pipeline(micro, controlnet=other).identity()["digest"]
    assert digest != load_pipeline(micro).identity()["digest"]


def test_weights_under_older_names(micro: Path, copy: Path) -> None:
    """Prefixed text weights with position ids, as in the published Stable Diffusion 1.5."""
    text = load_file(copy / TEXT)
    text = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in text.items()}
    text["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(text, copy / TEXT)
    with load_pipeline(micro) as new, load_pipeline(copy) as old:
        assert torch.equal(new.encode_text(["road"])["text"], old.encode_text(["road"])["text"])


def test_vae_attention_under_older_names(tmp_path: Path) -> None:
    folder = make_micro_model(tmp_path / "m", vae_attention=True)
    with load_pipeline(folder) as pipeline:
        expected = pipeline.decode(torch.ones(1, 4, 8, 8))
    vae = load_file(folder / VAE)
    old = {}
    for key, value in vae.items():
        name = key
        for new, former in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f".{new}.", f".{former}.")
        old[name] = value[:, :, None, None].contiguous() if name != key and value.ndim == 2 else value
    assert set(old) != set(vae)
    save_file(old, folder / VAE)
    with load_pipeline(folder) as pipeline:
        assert torch.equal(pipeline.decode(torch.ones(1, 4, 8, 8)), expected)


def test_only_fp16_weights(micro: Path, copy: Path) -> None:
    half = {key: value.half() for key, value in load_file(copy / UNET).items()}
    (copy / UNET).unlink()
    save_file(half, copy / "unet/diffusion_pytorch_model.fp16.safetensors")
    open_and_close(copy)


def change(name: str, **values: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return apply


def edit(name: str, edit_weights: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        weights = load_file(folder / name)
        edit_weights(weights)
        save_file(weights, folder / name)

    return apply


def to_pickle(folder: Path) -> None:
    torch.save(load_file(folder / UNET), folder / "unet/diffusion_pytorch_model.bin")
    (folder / UNET).unlink()


def truncate(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size]) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


CONTROL = "controlnet/config.json"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "part missing": (remove("vae"), "has no vae/"),
    "controlnet missing": (remove("controlnet"), "has no controlnet/"),
    "config missing": (remove("unet/config.json"), r"config\.json is missing"),
    "config broken": (lambda f: (f / "unet/config.json").write_text("{"), "not valid JSON"),
    "config no object": (lambda f: (f / "unet/config.json").write_text("[]"), "a list; expected a JSON object"),
    "config nonsense": (change("unet/config.json", down_block_types=["Nope", "DownBlock2D"]), "does not fit the UNet"),
    "config impossible": (change("vae/config.json", act_fn="nope"), r"config\.json cannot be built"),
    "another class": (change("unet/config.json", _class_name="Transformer2DModel"), "describes a Transformer2DModel"),
    "weights missing": (remove(UNET), r"diffusion_pytorch_model\.safetensors is missing"),
    "pickled weights": (to_pickle, "pickled weights"),
    "truncated weights": (truncate(UNET, 5000), "is damaged"),
    "empty weights": (truncate(UNET, 0), "is damaged"),
    "nan weights": (
        edit(UNET, lambda w: w["conv_in.weight"].view(-1)[3].fill_(torch.nan)),
        "conv_in.weight contains NaN",
    ),
    "nan controlnet": (
        edit(f"controlnet/{UNET.split('/')[1]}", lambda w: w["conv_in.bias"].fill_(torch.inf)),
        "controlnet.*contains NaN",
    ),
    "weight missing": (edit(UNET, lambda w: w.pop("conv_in.bias")), r"1 missing \(conv_in\.bias\)"),
    "weight too many": (edit(UNET, lambda w: w.update(extra=torch.zeros(1))), r"1 not in the config \(extra\)"),
    "weight of another shape": (
        edit(UNET, lambda w: w.update({"conv_in.bias": torch.zeros(9)})),
        r"conv_in\.bias is \[9\], expected \[8\]",
    ),
    "three condition channels": (change(CONTROL, conditioning_channels=3), "has 3 condition channels; expected 20"),
    "another width": (change(CONTROL, block_out_channels=[16, 32]), r"its block_out_channels is \[16, 32\]"),
    "another text width": (change(CONTROL, cross_attention_dim=32), "its cross_attention_dim is 32, not 16"),
    "another text encoder": (
        change("text_encoder/config.json", hidden_size=32),
        "has width 32, but the UNet's attention expects 16",
    ),
    "another vae": (change("vae/config.json", latent_channels=8), "8 latent channels"),
    "another factor": (
        change(CONTROL, conditioning_embedding_out_channels=[4, 4, 8]),
        "4 times, but the VAE downscales images 8 times",
    ),
    "no sample size": (change("unet/config.json", sample_size=None), "sample_size is None"),
    "unsupported unet": (
        lambda f: (
            change("unet/config.json", addition_embed_type="image")(f),
            change(CONTROL, addition_embed_type="image")(f),
        ),
        "needs more inputs than text",
    ),
    "scheduler missing": (remove("scheduler/scheduler_config.json"), r"scheduler_config\.json is missing"),
    "tokenizer missing": (remove("tokenizer/vocab.json"), r"vocab\.json is missing"),
    "tokenizer broken": (
        lambda f: (f / "tokenizer/vocab.json").write_text("{"),
        r"vocab\.json cannot be read: Expecting",
    ),
    "unknown default": (lambda f: (f / "dgkit.json").write_text('{"guidance": 3}'), "dgkit.json.*guidance"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_folders(copy: Path, case: str) -> None:
    damage, words = DAMAGE[case]
    damage(copy)
    with pytest.raises(ModelError, match=words) as raised:
        open_and_close(copy)
    assert raised.value.exit_code == 1


def test_wrong_places(tmp_path: Path, micro: Path) -> None:
    (tmp_path / "file").write_text("")
    for place, words in (("./nowhere", "does not exist"), (str(tmp_path / "file"), "is a file")):
        with pytest.raises(ModelError, match=words):
            load_pipeline(place)
    with pytest.raises(UsageError, match="known: torch, ort"):
        load_pipeline(micro, engine="jax")
    with pytest.raises(UsageError, match="known: fp32, bf16, fp16, int8"):
        load_pipeline(micro, dtype="int4")
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        load_pipeline(micro, device="tpu")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~no-such-user-here/x", "random:" + "x" * 5000])
def test_names_that_no_folder_can_have(name: str) -> None:
    with pytest.raises(DgkitError, match=r"cannot be found|does not exist|unknown random model") as raised:
        load_pipeline(name)
    assert len(raised.value.message) < 600 and "\n" not in raised.value.message


def test_hub_ids_without_network_name_the_files() -> None:
    with pytest.raises(ModelError, match=r"unet/diffusion_pytorch_model\.safetensors") as raised:
        load_pipeline("stable-diffusion-v1-5/stable-diffusion-v1-5")
    assert raised.value.hint.startswith("with network: hf download stable-diffusion-v1-5/stable-diffusion-v1-5 ")
    with pytest.raises(ModelError, match=r"ControlNet_UNet-S/diffusion_pytorch_model\.safetensors") as raised:
        hub.find_controlnet("yurujaja/DGInStyle/ControlNet_UNet-S")
    assert "hf download yurujaja/DGInStyle ControlNet_UNet-S/config.json" in raised.value.hint


def test_a_missing_embedded_model_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "EMBEDDED", tmp_path / "none")
    with pytest.raises(DgkitError, match="embedded model is missing"):
        load_pipeline()


def test_full_precision_is_a_second_pipeline(micro: Path) -> None:
    with load_pipeline(micro) as pipeline:
        assert pipeline.full_precision() is None
    with load_pipeline(micro, dtype="bf16") as pipeline:
        precise = pipeline.full_precision()
        assert precise is not None and precise is pipeline.full_precision()
        assert precise.runners["denoiser"].dtype == torch.float32 and precise.identity()["dtype"] == "fp32"
        assert precise.decode(torch.zeros(1, 4, 2, 2)).dtype == torch.float32
    with pytest.raises(DgkitError, match="not open"):
        precise.decode(torch.zeros(1, 4, 2, 2))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_cuda_is_close_to_the_cpu_and_repeats_itself(micro: Path, dtype: str) -> None:
    images = []
    for device, precision in (("cpu", "fp32"), ("cuda", dtype), ("cuda", dtype)):
        with load_pipeline(micro, device=device, dtype=precision) as pipeline:
            images.append(sample(pipeline, [scene(64)], Preset("quick", steps=2, guidance_scale=2.0))[0].image)
    assert np.abs(images[0].astype(int) - images[1]).mean() < 4
    assert np.array_equal(images[1], images[2])
