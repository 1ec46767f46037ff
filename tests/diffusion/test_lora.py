"""LoRA of a prior: what is accepted and refused, digests, keys of engines, and baking into a model folder."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dgkit.diffusion import lora_fusion
from dgkit.diffusion.loading import load_pipeline, model_networks, open_model
from dgkit.diffusion.lora_fusion import split_scale
from dgkit.diffusion.style_swap import swap
from dgkit.errors import MissingDependency, ModelError, OutputError, UsageError
from tests.loras import make_lora

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def lora(micro: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA for UNet and text encoder of the tiny model."""
    return make_lora(tmp_path_factory.mktemp("loras") / "style.safetensors", micro, alpha=4.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/style.safetensors", ("a/style.safetensors", 1.0)),
        ("a/style.safetensors:0.5", ("a/style.safetensors", 0.5)),
        ("owner/name:-1e-1", ("owner/name", -0.1)),
        ("owner/name/file.safetensors:2", ("owner/name/file.safetensors", 2.0)),
        ("a:b/style.safetensors", ("a:b/style.safetensors", 1.0)),
        ("a:style.safetensors", ("a:style.safetensors", 1.0)),
    ],
)
def test_scales(text: str, expected: tuple[str, float]) -> None:
    assert split_scale(text) == expected


@pytest.mark.parametrize("scale", ["nan", "inf", "-inf", "1e999", "half", "0,5", ""])
def test_wrong_scales(scale: str) -> None:
    with pytest.raises(UsageError, match="the scale") as raised:
        split_scale(f"style.safetensors:{scale}")
    assert "--lora" in raised.value.hint


def test_a_file_whose_name_ends_in_a_number(micro: Path, tmp_path: Path, lora: Path) -> None:
    (tmp_path / "a:2").mkdir()
    assert split_scale(str(tmp_path / "a:2")) == (str(tmp_path / "a:2"), 1.0)


def test_digests_depend_on_file_and_scale(micro: Path, lora: Path, tmp_path: Path) -> None:
    plain, fused = open_model(micro), open_model(micro, loras=[str(lora)])
    half, unet_only = (
        open_model(micro, loras=[f"{lora}:0.5"]),
        open_model(micro, loras=[str(make_lora(tmp_path / "unet.safetensors", micro, text=False))]),
    )
    assert len({model.digest() for model in (plain, fused, half, unet_only)}) == 4
    for part in ("controlnet", "vae"):
        assert fused.digest(part) == plain.digest(part)
    assert unet_only.digest("text_encoder") == plain.digest("text_encoder") != fused.digest("text_encoder")
    keys = {name: (network.digest(), model_networks(plain)[name].digest()) for name, network in
            model_networks(fused).items()}  # fmt: skip
    assert {name for name, (own, other) in keys.items() if own != other} == {"text_encoder", "denoiser"}
    assert fused.command_words() == f"{micro} --lora {lora}" and "0.5" in half.command_words()
    assert fused.weight_count("unet") == plain.weight_count("unet")


def test_the_identity_of_a_pipeline_names_its_loras(micro: Path, lora: Path) -> None:
    (record,) = load_pipeline(micro, loras=[f"{lora}:0.25"]).identity()["loras"]
    assert (record["name"], record["scale"], len(record["digest"])) == ("style.safetensors", 0.25, 64)
    assert "loras" not in load_pipeline(micro).identity()


def test_parts_are_the_same_until_released(micro: Path, lora: Path) -> None:
    model = open_model(micro, loras=[str(lora)])
    first = model.part("unet")
    assert model.part("unet") is first and not any(weight.requires_grad for weight in first.parameters())
    model.release()
    again = model.part("unet")
    assert again is not first
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def changed(lora: Path, path: Path, **changes: Any) -> str:
    """Write a copy of a LoRA with other tensors; a value that is None removes those whose name contains the key."""
    tensors = load_file(lora)
    for name, value in changes.items():
        tensors = {key: tensor for key, tensor in tensors.items() if value is not None or name not in key}
        tensors |= {} if value is None else {name: value}
    save_file(tensors, path)
    return str(path)


NAME = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{NAME}.dora_scale", "is a DoRA"),
        (f"{NAME}.lora_magnitude_vector", "is a DoRA"),
        ("lora_unet_x.lora_mid.weight", "is a LoCon with a Tucker decomposition"),
        ("lora_unet_x.hada_w1_a", "is a LoHa"),
        ("lora_unet_x.lokr_w1", "is a LoKr"),
        ("transformer.blocks.0.attn.to_q.lora_A.weight", "for a transformer such as SD3 or FLUX"),
        ("unet.up_blocks.9.to_q.lora_A.weight", "does not fit the prior: 1 of .*unet.up_blocks.9.to_q.lora_A.weight"),
        ("text_encoder_2.x.lora_A.weight", "does not fit the prior: 1 of .*text_encoder_2.x"),
        ("controlnet.x.lora_A.weight", "does not fit the prior: 1 of .*controlnet.x"),
        (f"{NAME}.lora_A.weight", r"is for another model: .*to_q.lora_A.weight is \[1, 3\], its layer \[8, 8\]"),
    ],
)
def test_other_files_are_refused(micro: Path, lora: Path, tmp_path: Path, name: str, message: str) -> None:
    path = changed(lora, tmp_path / "bad.safetensors", **{name: torch.ones(1, 3)})
    with pytest.raises(ModelError, match=message):
        open_model(micro, loras=[path])


def test_loras_of_other_families_are_refused(micro: Path, family_model: Path, tmp_path: Path) -> None:
    for kind in ("peft", "kohya"):
        path = make_lora(tmp_path / f"{kind}.safetensors", family_model, kind=kind)
        with pytest.raises(ModelError, match=r"does not fit the prior|is for another model") as raised:
            open_model(micro, loras=[str(path)])
        assert "use a LoRA for the family of the prior" in raised.value.hint


def test_damaged_files_are_refused(micro: Path, lora: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(lora.read_bytes()[:-9])
    save_file({}, tmp_path / "empty.safetensors")
    nan = changed(lora, tmp_path / "nan.safetensors", **{f"{NAME}.lora_A.weight": torch.full((2, 8), torch.nan)})
    bare = str(make_lora(tmp_path / "bare.safetensors", micro, kind="kohya", alpha=float("inf")))
    for path, message in (
        (tmp_path / "cut.safetensors", "is damaged"), (tmp_path / "empty.safetensors", "does not fit"),
        (nan, "contains NaN or infinity"), (bare, "contains NaN or infinity"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=message):
            open_model(micro, loras=[str(path)])


def test_settings_in_a_file_import_nothing(micro: Path, lora: Path, tmp_path: Path) -> None:
    """peft imports the module that ``megatron_core`` names if ``megatron_config`` is set."""
    settings = {"unet.r": 2, "unet.lora_alpha": 4, "unet.megatron_config": {}, "unet.megatron_core": "no.such.module"}
    tensors = load_file(make_lora(tmp_path / "plain.safetensors", micro, text=False))
    for extra, name in (({}, "odd"), ({"unet.use_dora": True}, "dora")):
        header = {"format": "pt", "lora_adapter_metadata": json.dumps(settings | extra)}
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata=header)
    open_model(micro, loras=[str(tmp_path / "odd.safetensors")]).part("unet")
    with pytest.raises(ModelError, match="is a DoRA"):
        open_model(micro, loras=[str(tmp_path / "dora.safetensors")])


def test_places_without_a_lora(micro: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "old.bin").write_bytes(pickle.dumps({}))
    several = tmp_path / "several"
    several.mkdir()
    for name in ("a", "b"):
        (several / f"{name}.safetensors").write_bytes(lora.read_bytes())
    (tmp_path / "none").mkdir()
    for place, message in (
        (tmp_path / "old.bin", "is pickled, which can execute code"), (several, "has 2 LoRA files: a.safetensors, b"),
        (tmp_path / "none", "has no .safetensors file"), (tmp_path / "x.safetensors", "does not exist"),
        ("nobody/nothing", "downloading it from the hub failed"), ("a\0b", "cannot be found|does not exist"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=message):
            open_model(micro, loras=[str(place)])
    (several / "pytorch_lora_weights.safetensors").write_bytes(lora.read_bytes())
    assert open_model(micro, loras=[str(several)]).digest() == open_model(micro, loras=[str(lora)]).digest()


def test_without_peft(micro: Path, lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, extra: str) -> None:
        raise MissingDependency(f"{module} of {extra}", "install")

    monkeypatch.setattr(lora_fusion, "require", missing)
    with pytest.raises(MissingDependency, match="peft of lora"):
        open_model(micro, loras=[str(lora)])


def test_baked_in_and_recorded(micro: Path, lora: Path, tmp_path: Path) -> None:
    out = tmp_path / "baked"
    report = swap(micro, micro, out, loras=[f"{lora}:0.5"])
    baked, fused = open_model(out), open_model(micro, loras=[f"{lora}:0.5"])
    assert report.digest == baked.digest() != open_model(micro).digest()
    for part in baked.configs:
        pairs = zip(baked.part(part).state_dict().items(), fused.part(part).state_dict().items(), strict=True)
        assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)
    assert len({path.stat().st_mode for path in (out / "dgkit.json", *out.glob("unet/*.safetensors"))}) == 1
    (record,) = json.loads((out / "dgkit.json").read_text())["loras"]
    assert record == {"name": "style.safetensors", "digest": fused.loras[0].digest, "scale": 0.5}  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="already part of the model baked"):
        open_model(out, loras=[f"{lora}:0.2"])
    with pytest.raises(ModelError, match="already given as"):
        open_model(micro, loras=[str(lora), f"{lora}:0.2"])
    assert swap(micro, micro, out, loras=[f"{lora}:0.5"]).existed
    with pytest.raises(OutputError, match="differs"):
        swap(micro, micro, out, loras=[f"{lora}:0.6"])
    assert not [path for path in tmp_path.iterdir() if path != out]
    with pytest.raises(ModelError, match="already part"):
        swap(out, out, tmp_path / "again", loras=[str(lora)])
    assert not (tmp_path / "again").exists()


def test_diffusers_loads_a_baked_folder(micro: Path, lora: Path, tmp_path: Path) -> None:
    import diffusers

    swap(micro, micro, tmp_path / "baked", loras=[str(lora)])
    pipe: Any = diffusers.StableDiffusionControlNetPipeline.from_pretrained(tmp_path / "baked")
    fused = open_model(micro, loras=[str(lora)])
    for part in ("unet", "text_encoder"):
        found = getattr(pipe, part).state_dict()
        assert all(torch.equal(found[key], value) for key, value in fused.part(part).state_dict().items())
