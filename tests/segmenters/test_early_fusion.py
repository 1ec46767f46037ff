"""SegFormer's head, fused at the resolution of each level, gives the logits of the libraries."""

import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

from dgkit.segmenters.early_fusion import EarlyFusion, fuse_early
from tests.segformers import save_narrow_segformer


def random_norms(network: nn.Module) -> nn.Module:
    """Give batch norms statistics and scales of a trained network."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in (
                (module.weight, 0.5),
                (module.bias, -1),
                (module.running_mean, -1),
                (module.running_var, 0.5),
            ):
                nn.init.uniform_(values, low, 2)
    return network.eval()


def of_transformers(tmp_path) -> tuple[nn.Module, Any]:
    from transformers import SegformerForSemanticSegmentation

    network = SegformerForSemanticSegmentation.from_pretrained(save_narrow_segformer(tmp_path / "folder"))
    return random_norms(network), lambda image: network(image, return_dict=False)[0]


def of_mmseg(tmp_path) -> tuple[nn.Module, Any]:
    if importlib.util.find_spec("mmseg") is None:
        pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'")
    from dgkit.training.segmenter.networks import build_network, model_config

    network = random_norms(build_network(model_config("segformer", "mit_b0", 64, channels=16)))
    return network, network._forward


@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")
@pytest.mark.parametrize("made", [of_transformers, of_mmseg])
def test_logits_are_those_of_the_library(tmp_path, made):
    torch.manual_seed(0)
    network, run = made(tmp_path)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = run(image)
        assert fuse_early(nn.Sequential(network)) == 1 and isinstance(network.decode_head, EarlyFusion)
        found = run(image)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")
@pytest.mark.parametrize("change", [{"align_corners": True}, {"interpolate_mode": "nearest"}])
def test_heads_that_resize_otherwise_stay(tmp_path, change):
    network, _ = of_mmseg(tmp_path)
    for name, value in change.items():
        setattr(network.decode_head, name, value)
    assert fuse_early(network) == 0


def test_other_networks_stay():
    assert fuse_early(nn.Sequential(nn.Conv2d(3, 4, 1))) == 0
