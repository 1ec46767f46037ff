"""SHADE: style statistics, base styles, mixtures, consistency, and their use in the networks."""

import importlib.util
import math

import pytest
import torch

if importlib.util.find_spec("mmseg") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

from dgkit.errors import UsageError
from dgkit.training.segmenter.mm import MODELS
from dgkit.training.segmenter.networks import backbone_config, build_network, model_config
from dgkit.training.segmenter.shade import (
    Styles,
    base_styles,
    farthest_points,
    first_features,
    mix_styles,
    restyle,
    style_consistency,
    style_hallucination,
    style_of,
)
from tests.training.segmenter.test_networks import samples

pytestmark = pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")

SHADE = {"shade": {"concentration": 0.5, "weight": 10.0}}


def some_styles(count: int, channels: int) -> Styles:
    return Styles(torch.randn(count, channels), torch.rand(count, channels) + 0.5)


def network(two_scales: bool = False, terms: dict | None = None):
    torch.manual_seed(0)
    net = build_network(
        model_config(
            "daformer" if two_scales else "segformer", "mit_b0", 64, two_scales=two_scales, channels=16, terms=terms
        )
    )
    if terms:
        net.auxiliary.base_styles = some_styles(4, 32)
    return net


def test_restyled_features_have_the_stated_mean_and_deviation():
    features = 3 * torch.randn(2, 5, 40) + 7
    styles = some_styles(2, 5)
    found = restyle(features, styles)
    for mine, stated in zip(style_of(found), styles, strict=True):
        torch.testing.assert_close(mine, stated)
    torch.testing.assert_close(restyle(found, style_of(features)), features)  # nothing but the style was changed
    # 1, 2, 3, 4: mean 2.5, squared distances 2.25, 0.25, 0.25, 2.25, so the deviation of a sample is sqrt(5 / 3)
    mean, std = style_of(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
    assert mean.item() == 2.5 and std.item() == pytest.approx(math.sqrt(5 / 3))


def test_the_features_own_statistics_are_constants_in_the_gradient():
    features = torch.randn(1, 1, 8, requires_grad=True)
    restyle(features, Styles(torch.zeros(1, 1), torch.full((1, 1), 2.0))).sum().backward()
    slope = 2.0 / features.detach().std()
    torch.testing.assert_close(features.grad, torch.full((1, 1, 8), slope.item()), rtol=1e-5, atol=0)


def test_mixtures_are_convex_and_concentrate_on_one_base_style_for_small_concentrations():
    bases = Styles(torch.eye(4), 2 * torch.eye(4))
    torch.manual_seed(0)
    for concentration in (1 / 64, 100.0):
        mean, std = mix_styles(bases, 400, concentration)
        torch.testing.assert_close(mean.sum(1), torch.ones(400))
        assert (mean >= 0).all() and mean.shape == (400, 4)
        torch.testing.assert_close(std, 2 * mean)  # the same weights for both
        # Of a symmetric Dirichlet distribution of K weights: E[sum w^2] = (a + 1) / (K a + 1), 0.956 and 0.252 here.
        expected = (concentration + 1) / (4 * concentration + 1)
        assert mean.square().sum(1).mean().item() == pytest.approx(expected, abs=0.03)


def test_farthest_points_of_a_small_set():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0], [0.0, 4.0], [9.0, 0.0]])
    # From (0,0): (10,0) is farthest; then (0,4), 4 from (0,0); then (1,0) and (9,0) are both 1 away, the first wins.
    assert farthest_points(points, 4, first=0).tolist() == [0, 2, 3, 1]
    assert farthest_points(points, 2, first=2).tolist() == [2, 3]


def test_base_styles_differ_in_mean_or_deviation():
    styles = Styles(torch.tensor([[0.0], [0.0], [3.0]]), torch.tensor([[1.0], [6.0], [1.0]]))
    found = base_styles(styles, 2, first=0)
    assert found.mean.tolist() == [[0.0], [0.0]] and found.std.tolist() == [[1.0], [6.0]]


def test_consistency_is_the_mean_divergence_to_the_mixture():
    one, two = torch.tensor([0.8, 0.2]), torch.tensor([0.4, 0.6])
    logits = torch.stack([one, two]).log().view(2, 2, 1, 1)
    # m = (0.6, 0.4): KL(p|m) = 0.8 log(4/3) + 0.2 log(1/2), KL(q|m) = 0.4 log(2/3) + 0.6 log(3/2)
    expected = (0.8 * math.log(4 / 3) + 0.2 * math.log(1 / 2) + 0.4 * math.log(2 / 3) + 0.6 * math.log(3 / 2)) / 2
    assert style_consistency(logits).item() == pytest.approx(expected, rel=1e-5)
    agreeing = torch.zeros(2, 2, 1, 3)  # four positions, one of them the above
    wider = torch.cat([logits, agreeing], dim=3)
    assert style_consistency(wider).item() == pytest.approx(expected / 4, rel=1e-5)
    same = torch.randn(1, 19, 4, 4).repeat(2, 1, 1, 1)
    assert style_consistency(same).item() == pytest.approx(0, abs=1e-6)
    apart = torch.tensor([[50.0, -50.0], [-50.0, 50.0]]).view(2, 2, 1, 1)
    assert style_consistency(apart).item() == pytest.approx(math.log(2))


def test_consistency_has_a_gradient_in_both_branches():
    logits = torch.randn(4, 19, 3, 3, requires_grad=True)
    style_consistency(logits).backward()
    assert all(half.abs().sum() > 0 for half in logits.grad.chunk(2))


@pytest.mark.parametrize(("name", "channels"), [("mit_b0", 32), ("resnet101", 64)])
def test_style_hallucination_appends_restyled_copies_to_the_batch(name, channels):
    torch.manual_seed(0)
    deep = name == "resnet101"
    backbone = MODELS.build({**backbone_config(name), **({"depth": 18} if deep else {})})
    backbone.eval()
    first = backbone.maxpool if deep else backbone.layers[0][2]
    if deep:
        backbone.stem.train()  # without the batch's statistics, ReLU makes some channels of a random stem constant
    images, styles = torch.randn(2, 3, 64, 64), some_styles(1, channels)  # any mixture of one style is that one
    seen = []
    with torch.no_grad():
        before = backbone(images)
        with style_hallucination(backbone, styles, 1.0):
            capture = first.register_forward_hook(lambda module, passed, output: seen.append(output))
            levels = backbone(images)
        capture.remove()
        after = backbone(images)
        flat = seen[0].flatten(2) if deep else seen[0].transpose(1, 2)
        torch.testing.assert_close(first_features(backbone, images), flat[:2])
    for found, stated in zip(style_of(flat[2:]), styles, strict=True):
        torch.testing.assert_close(found, stated.expand(2, -1), rtol=1e-4, atol=1e-4)
    for level, plain, again in zip(levels, before, after, strict=True):
        torch.testing.assert_close(level[:2], plain)
        torch.testing.assert_close(again, plain)
        assert level.shape == (4, *plain.shape[1:]) and not torch.allclose(level[2:], plain)


@pytest.mark.parametrize("two_scales", [False, True])
def test_the_loss_uses_each_label_twice(two_scales, monkeypatch):
    net = network(two_scales, SHADE).train()
    seen = []
    original = net.decode_head.loss_by_feat
    monkeypatch.setattr(
        net.decode_head,
        "loss_by_feat",
        lambda logits, labels: seen.append((logits, labels)) or original(logits, labels),
    )
    label = torch.randint(0, 19, (2, 64, 64))
    losses = net.loss(torch.randn(2, 3, 64, 64), samples(label))
    assert len(seen) == 1 + two_scales
    whole, labels = seen[0]
    assert len(whole) == len(labels) == 4
    for index, sample in enumerate(labels):
        assert torch.equal(sample.gt_sem_seg.data[0], label[index % 2])
    # The consistency is that of the logits of the whole pictures: HRDA's fused ones.
    torch.testing.assert_close(losses["style.loss_consistency"], 10.0 * style_consistency(whole))
    assert losses["style.loss_consistency"] > 0
    losses["style.loss_consistency"].backward()
    assert net.backbone.layers[0][0].projection.weight.grad.abs().sum() > 0


def test_shade_does_not_change_the_network_outside_training():
    plain, with_shade = network(), network(terms=SHADE)
    assert plain.state_dict().keys() == with_shade.state_dict().keys()
    with_shade.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(with_shade.eval()._forward(image), plain.eval()._forward(image))
    with_shade.auxiliary.base_styles = None
    with pytest.raises(UsageError, match="no base styles"):
        with_shade.loss(image, samples(torch.zeros(1, 64, 64, dtype=torch.long)))


def test_statistics_are_fp32_in_bf16_training():
    net = network(terms=SHADE).train()
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.no_grad(),
        style_hallucination(net.backbone, some_styles(4, 32), 0.5),
    ):
        levels = net.backbone(torch.randn(1, 3, 64, 64))
    assert all(len(level) == 2 and level.isfinite().all() for level in levels)
