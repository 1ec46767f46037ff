"""Rein, LoRA and freezing: formulas, sizes, what learns."""

import importlib.util
import math

import numpy as np
import pytest
import torch

if importlib.util.find_spec("mmseg") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

from dgkit.errors import MissingDependency, UsageError
from dgkit.segmenters.efficientnet_lite import EfficientNetLite0
from dgkit.training.segmenter.adapters import Rein, add_lora, is_adapter
from dgkit.training.segmenter.mm import MODELS, init_default_scope
from dgkit.training.segmenter.network_pairs import EncoderOptions
from dgkit.training.segmenter.networks import build_network, model_config
from tests.training.segmenter.encoders import encoder_folder

pytestmark = pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")

DINOV2_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14}


def test_rein_is_its_formula():
    """Worked with loops over patches, in numpy."""
    torch.manual_seed(0)
    rein = Rein(blocks=2, width=6, patch=4, tokens=5, rank=3).double()
    rein.scale.data.fill_(0.7)
    features = torch.randn(1, 4, 6, dtype=torch.double)
    found = rein(features, 1)[0].detach().numpy()
    values = {name: value.numpy() for name, value in rein.state_dict().items()}
    tokens = values["down"][1] @ values["up"][1]
    for patch, f in enumerate(features[0].numpy()):
        scores = np.array([f @ token / math.sqrt(6) for token in tokens])
        share = np.exp(scores) / np.exp(scores).sum()
        mapped = [values["token_map.weight"] @ token + values["token_map.bias"] for token in tokens]
        delta = sum(share[i] * mapped[i] for i in range(1, 5))
        step = values["delta_map.weight"] @ (delta + f) + values["delta_map.bias"]
        np.testing.assert_allclose(found[patch], f + 0.7 * step)


def test_rein_starts_in_the_published_range_and_joins_its_queries():
    torch.manual_seed(0)
    rein = Rein(blocks=3, width=64, patch=16, tokens=20, rank=16, queries=8)
    limit = math.sqrt(6 / (3 * 256 + math.sqrt(1024)))
    for matrix in (rein.down, rein.up):
        assert 0.95 * limit < matrix.detach().abs().max() <= limit
    assert rein.scale.item() == pytest.approx(0.001)
    each = torch.stack([rein.query_map(rein.down[i] @ rein.up[i]) for i in range(3)])
    joined = torch.cat([each.max(0).values, each.mean(0), each[2]], dim=-1)
    torch.testing.assert_close(rein.make_queries(), rein.query_join(joined))


def trainable(config) -> float:
    init_default_scope("mmseg")
    with torch.device("meta"):  # no memory, and no initialisation by mmengine
        net = MODELS.build(config)
    return sum(p.numel() for p in net.backbone.parameters() if p.requires_grad) / 1e6


def test_rein_on_dinov2_large_trains_what_was_published(tmp_path):
    """2.99 M parameters. Source: Wei et al. (2024), table 1."""
    backbone = encoder_folder(tmp_path, "dinov2", **DINOV2_LARGE, image_size=518)
    options = EncoderOptions(freeze=True, rein={"tokens": 100, "rank": 16}, patch=16)
    config = model_config("mask2former", backbone, 512, encoder=options)
    config["decode_head"] |= {"encoder_layers": 1, "decoder_layers": 1}
    assert trainable(config) == pytest.approx(2.99, rel=0.01)


def test_lora_on_dinov2_large_trains_queries_and_values(tmp_path):
    """2 matrices of 1024 x 1024 in each of 24 blocks, each changed by 2 x 16 x 1024 numbers: 1.57 M."""
    pytest.importorskip("peft", reason="needs peft: pip install 'dgkit[train]'")
    backbone = encoder_folder(tmp_path, "dinov2", **DINOV2_LARGE, image_size=518)
    options = EncoderOptions(freeze=True, lora={"rank": 16, "alpha": 16.0}, patch=16)
    assert trainable(model_config("linear", backbone, 512, encoder=options)) == pytest.approx(1.573, rel=0.001)


def test_frozen_parts_do_not_learn_and_stay_in_eval_mode(tmp_path):
    for freeze in (True, "norms"):
        net = build_network(
            model_config("daformer", encoder_folder(tmp_path, "resnet"), 64, encoder=EncoderOptions(freeze=freeze))
        )
        net.train()
        norms = [module for module in net.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert norms and not any(norm.training or norm.weight.requires_grad for norm in norms)
        learning = {name for name, p in net.backbone.named_parameters() if p.requires_grad}
        assert bool(learning) == (freeze == "norms") and net.decode_head.training
        before = {name: value.clone() for name, value in net.backbone.named_buffers()}
        net.extract_feat(torch.randn(2, 3, 64, 64))
        assert all(torch.equal(value, before[name]) for name, value in net.backbone.named_buffers())


def test_an_encoder_that_learns_nothing_keeps_its_weights(tmp_path):
    """A frozen encoder with Rein: only the adapter has gradients."""
    options = EncoderOptions(freeze=True, rein={"tokens": 5, "rank": 2})
    net = build_network(model_config("linear", encoder_folder(tmp_path, "dinov2"), 64, encoder=options)).train()
    net.backbone(torch.randn(1, 3, 64, 64))[-1].sum().backward()
    assert {name for name, p in net.backbone.named_parameters() if p.grad is not None} == {
        f"rein.{name}" for name, _ in net.backbone.rein.named_parameters()
    }
    assert is_adapter("rein.down") and not is_adapter("encoder.layer.0.attention.q_proj.weight")


def test_rein_on_efficientnet_refines_each_level():
    """100 tokens of rank 16 and two linear layers for each of the four widths; without its scale the features stay."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra 'imagenet'")
    options = EncoderOptions(freeze=True, rein={"tokens": 100, "rank": 16})
    net = build_network(model_config("daformer", "efficientnet_lite0", 64, encoder=options)).eval()
    adapter = sum(p.numel() for p in net.backbone.parameters() if p.requires_grad)
    assert adapter == sum(16 * (100 + width) + 2 * (width + 1) * width + 1 for width in (24, 40, 112, 320))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        refined = net.backbone(image)
        for rein in net.backbone.rein:
            rein.scale.zero_()
        unchanged = net.backbone(image)
        plain = EfficientNetLite0().eval()
        plain.encoder.load_state_dict(net.backbone.encoder.state_dict())
        for one, two, expected in zip(refined, unchanged, plain(image), strict=True):
            torch.testing.assert_close(two, expected)
            assert one.shape == two.shape and not torch.equal(one, two)


def test_rein_on_efficientnet_makes_no_queries():
    with pytest.raises(UsageError, match="rein cannot be combined with backbone 'efficientnet_lite0' and head 'mask2f"):
        model_config("mask2former", "efficientnet_lite0", 64, encoder=EncoderOptions(freeze=True, rein={"tokens": 4}))


def test_lora_needs_peft(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingDependency, match=r"'peft'.* the extra 'train'"):
        add_lora(torch.nn.Linear(2, 2), 2, 2.0)
