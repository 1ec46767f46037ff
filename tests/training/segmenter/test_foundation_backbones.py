"""Encoders of transformers and EfficientNet-Lite0: features, weights, sizes."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

if importlib.util.find_spec("mmseg") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

from dgkit.errors import MissingDependency, ModelError, UsageError
from dgkit.segmenters.efficientnet_lite import IMAGENET, EfficientNetLite0
from dgkit.training.segmenter.encoder_weights import initial_weights, load_encoder
from dgkit.training.segmenter.foundation_backbones import (
    StageBackbone,
    TokenBackbone,
    resized_positions,
)
from dgkit.training.segmenter.foundation_config import find_encoder, plan_encoder, read_encoder
from dgkit.training.segmenter.mm import MODELS
from dgkit.training.segmenter.network_pairs import TOKENS, EncoderOptions
from dgkit.training.segmenter.networks import model_config
from dgkit.training.segmenter.segmenter_recipe import SegmenterRecipe
from tests.training.segmenter.encoders import CONFIGS, VITS, encoder_folder, save_encoder

IMAGE = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))


def built(folder: Path, crop: int = 40, levels: bool = True, **options):
    plan = plan_encoder(str(folder), crop, EncoderOptions(**options), levels)
    return MODELS.build(plan.backbone).eval(), plan


@pytest.mark.parametrize("kind", VITS)
def test_a_vit_has_the_features_of_transformers(tmp_path, kind):
    """Those after each block and the last norm, which AutoBackbone gives for the same weights."""
    torch.manual_seed(0)
    save_encoder(tmp_path, kind)
    ours, plan = built(tmp_path)
    assert plan.channels == [32] * 4 and plan.divisor == 8
    assert load_encoder(ours, str(tmp_path)) == len(ours.state_dict())
    names = [f"stage{number}" for number in (1, 2, 3, 4)]
    theirs = type(ours.encoder).from_pretrained(tmp_path, out_features=names).eval()
    with torch.no_grad():
        for image in (IMAGE, IMAGE[..., :24]):  # a smaller one, for which positions are resized
            expected = theirs(image).feature_maps
            for one, other in zip(ours(image), expected, strict=True):
                # transformers smooths the positions of dinov2_with_registers before making them smaller
                exact = image is IMAGE or kind != "dinov2_with_registers"
                torch.testing.assert_close(one, other, **({} if exact else {"atol": 0.2, "rtol": 0.2}))


@pytest.mark.parametrize("kind", sorted(set(CONFIGS) - set(VITS)))
def test_a_pyramid_has_the_features_of_transformers(tmp_path, kind):
    torch.manual_seed(0)
    save_encoder(tmp_path, kind)
    ours, plan = built(tmp_path, crop=64)
    assert isinstance(ours, StageBackbone) and load_encoder(ours, str(tmp_path)) == len(ours.encoder.state_dict())
    names = [f"stage{number}" for number in (1, 2, 3, 4)]
    theirs = type(ours.encoder).from_pretrained(tmp_path, out_features=names).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found, expected = ours(image), theirs(image).feature_maps
        last = built(tmp_path, crop=64, levels=False)[0]
        load_encoder(last, str(tmp_path))
        torch.testing.assert_close(last(image)[0], found[-1])
    for one, other, channels, stride in zip(found, expected, plan.channels, (4, 8, 16, 32), strict=True):
        torch.testing.assert_close(one, other)
        assert one.shape == (1, channels, 64 // stride, 96 // stride)


def test_positions_and_patches_are_resized_to_the_recipe(tmp_path):
    torch.manual_seed(0)
    model = save_encoder(tmp_path, "dinov2")
    ours, plan = built(tmp_path, crop=64, patch=16)
    load_encoder(ours, str(tmp_path))
    kernel = ours.encoder.embeddings.patch_embeddings.projection.weight
    old = model.embeddings.patch_embeddings.projection.weight
    torch.testing.assert_close(kernel, functional.interpolate(old, size=(16, 16), mode="bicubic"))
    positions = ours.encoder.embeddings.position_embeddings
    torch.testing.assert_close(positions, resized_positions(model.embeddings.position_embeddings, 4, 4))
    assert positions.shape == (1, 17, 32) and plan.divisor == 16
    assert [tuple(one.shape) for one in ours(torch.randn(1, 3, 32, 48))] == [(1, 32, 2, 3)] * 4


def test_resized_positions_interpolate_a_gradient():
    ramp = torch.arange(8.0).view(1, 8, 1, 1).expand(1, 8, 8, 1).reshape(1, 64, 1)
    embeddings = torch.cat([torch.full((1, 1, 1), 99.0), ramp], dim=1)
    found = resized_positions(embeddings, 16, 8)
    assert found[0, 0, 0] == 99 and found.shape == (1, 129, 1)
    rows = found[0, 1:, 0].view(16, 8)
    torch.testing.assert_close(rows[:, 0], rows[:, 7])
    expected = torch.tensor([2.25, 2.75, 3.25, 3.75, 4.25, 4.75])  # far from the border
    torch.testing.assert_close(rows[5:11, 0], expected, atol=0.05, rtol=0)
    assert resized_positions(embeddings, 8, 8) is embeddings


@pytest.mark.parametrize(("name", "published"), [("small", 22.1), ("base", 86.6), ("large", 304.4)])
def test_dinov2_has_the_published_sizes(name, published):
    """Oquab et al. (2024), table 17: 21 M, 86 M, 300 M; here as transformers counts them, on no memory."""
    width, layers, heads = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}[name]
    settings = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "patch_size": 14}
    with torch.device("meta"):
        made = TokenBackbone("dinov2", settings | {"image_size": 518}, blocks=[2, 5, 8, layers - 1])
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(published, rel=0.01)


def test_a_checkpoint_needs_no_folder(tmp_path):
    """The config of a network holds settings that eval reads as data: no path, no address."""
    from dgkit.segmenters.mmseg_config import find_model

    config = {"model": model_config("mask2former", encoder_folder(tmp_path, "dinov2"), 64)}
    assert find_model(config, "config.py")["backbone"]["kind"] == "dinov2"
    assert str(tmp_path) not in json.dumps(config)


def test_other_keys_of_a_config_are_dropped(tmp_path):
    encoder_folder(tmp_path, "dinov2", auto_map={"AutoModel": "evil.Net"}, attn_implementation="owner/kernel")
    kind, settings = read_encoder(tmp_path)
    assert kind in TOKENS and settings.keys() == CONFIGS["dinov2"].keys()


def test_folders_that_are_no_encoder_are_refused(tmp_path):
    save_encoder(tmp_path / "whole", "dinov2")
    for changes, reason in (
        ({"model_type": "bert"}, "holds a 'bert' model; allowed: dinov2"),
        ({"num_channels": 4}, "takes images of 4 channels"),
        ({"hidden_size": 10**9}, "too large"),
    ):
        encoder_folder(tmp_path / "wrong", "dinov2", **changes)
        with pytest.raises(ModelError, match=reason):
            read_encoder(tmp_path / "wrong")
    ours, _ = built(tmp_path / "whole")
    encoder_folder(tmp_path / "swin", "swin")
    with pytest.raises(ModelError, match="holds a swin model, the encoder is dinov2"):
        ours.load_pretrained(str(tmp_path / "swin"))
    save_encoder(tmp_path / "wide", "dinov2", hidden_size=64)
    with pytest.raises(ModelError, match="the encoder needs"):
        ours.load_pretrained(str(tmp_path / "wide"))
    (tmp_path / "whole" / "model.safetensors").write_bytes(b"0" * 64)
    with pytest.raises(ModelError, match="cannot be read"):
        ours.load_pretrained(str(tmp_path / "whole"))


def recipe(**changes) -> SegmenterRecipe:
    return SegmenterRecipe.model_validate({"data": {"source": {"root": "a"}}, **changes})


def test_where_the_weights_come_from(tmp_path):
    named = encoder_folder(tmp_path / "empty", "dinov2")
    assert initial_weights(recipe(backbone=named)) is None
    save_encoder(tmp_path / "whole", "dinov2")
    whole = f"transformers:{tmp_path / 'whole'}"
    assert initial_weights(recipe(backbone=whole)) == str(tmp_path / "whole")
    assert initial_weights(recipe(backbone=whole, pretrained="random")) is None
    assert initial_weights(recipe(backbone="efficientnet_lite0")) == IMAGENET
    assert initial_weights(recipe()) is None and initial_weights(recipe(pretrained="a.pth")) == "a.pth"
    (tmp_path / "empty" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="pickled weights"):
        initial_weights(recipe(backbone=named))


def test_a_hub_id_needs_the_network_or_a_copy():
    with pytest.raises(ModelError, match="downloading it from the hub failed") as caught:
        find_encoder("nobody/none-such")
    assert caught.value.hint == "with network: hf download nobody/none-such"
    with pytest.raises(ModelError, match="neither a folder nor a hub id"):
        find_encoder("no/such/folder")


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("dinov2", {"patch": 24}, "data.crop=64 is not a multiple of the encoder's patch of 24 pixels"),
        ("dinov2", {"blocks": (0, 1, 2, 4)}, "four increasing numbers below 4"),
        ("dinov2", {"blocks": (0, 2, 1, 3)}, "four increasing numbers below 4"),
        ("resnet", {"rein": {}}, "rein cannot be combined with a resnet encoder"),
        ("convnext", {"lora": {}}, "lora cannot be combined with a convnext encoder; allowed: .*, swin"),
        ("swin", {"patch": 8}, "patch cannot be combined with a swin encoder"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, kind, options, reason):
    if kind in ("resnet", "convnext"):
        options = {name: {"rank": 2} for name in options}
    with pytest.raises(UsageError, match=reason):
        model_config("daformer", encoder_folder(tmp_path, kind), 64, encoder=EncoderOptions(**options))


def test_eomt_needs_a_plain_vit(tmp_path):
    with pytest.raises(UsageError, match=r"needs a plain ViT, but .* is a swin encoder; allowed: dinov2"):
        model_config("eomt", encoder_folder(tmp_path, "swin"), 64)


needs_imagenet = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite_pytorch") is None, reason="needs the extra 'imagenet'"
)


@needs_imagenet
def test_efficientnet_lite0_has_the_features_of_its_package():
    """4.65 M parameters with the classifier, which the encoder lacks; deepest features as its own function."""
    package = importlib.import_module("efficientnet_lite_pytorch")
    whole = package.EfficientNet.from_name("efficientnet-lite0").eval()
    assert sum(p.numel() for p in whole.parameters()) / 1e6 == pytest.approx(4.65, rel=0.01)
    ours = EfficientNetLite0().eval()
    assert load_encoder(ours, IMAGENET) == len(ours.encoder.state_dict())
    whole.load_state_dict(ours.encoder.state_dict(), strict=False)
    with torch.no_grad():
        found = ours(torch.zeros(1, 3, 64, 96))
        head = whole._swish(whole._bn1(whole._conv_head(found[-1])))
        torch.testing.assert_close(head, whole.extract_features(torch.zeros(1, 3, 64, 96)))
    assert [tuple(one.shape[1:]) for one in found] == [(24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]


@needs_imagenet
def test_other_files_are_no_weights_of_efficientnet(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="does not hold the weights of EfficientNet-Lite0"):
        EfficientNetLite0().load_pretrained(str(tmp_path / "other.pth"))


def test_efficientnet_needs_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingDependency, match="extra 'imagenet'"):
        EfficientNetLite0()
