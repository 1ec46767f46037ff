"""The ImageNet feature distance: mask, value, and use in the loss."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch

if importlib.util.find_spec("mmseg") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

from dgkit.errors import UsageError
from dgkit.training.segmenter.feature_distance import agreeing_cells, feature_distance
from dgkit.training.segmenter.hooks import FrozenEncoder
from dgkit.training.segmenter.hrda import half
from dgkit.training.segmenter.mm import MODELS
from dgkit.training.segmenter.networks import backbone_config, build_network, model_config
from dgkit.training.segmenter.regularised import Auxiliary
from dgkit.training.segmenter.segmenter_recipe import FeatureDistance
from dgkit.training.segmenter.shade import Styles
from tests.training.segmenter.test_networks import samples

pytestmark = pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")

CLASSES = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)


def test_defaults_are_the_published_classes_and_constants():
    assert FeatureDistance() == FeatureDistance(weight=0.005, classes=CLASSES, min_ratio=0.75)


def test_a_cell_counts_if_one_thing_fills_three_quarters_of_it():
    label = torch.full((1, 4, 16), 0)
    label[0, :3, :4] = 13  # 12 of 16 pixels: 0.75
    label[0, :3, 4:8] = 13
    label[0, 2, 7] = 255  # 11 of 16
    label[0, :2, 8:12], label[0, 2:, 8:12] = 11, 13  # two things, neither enough
    label[0, :, 12:] = 8  # vegetation is not a thing class
    assert agreeing_cells(label, (1, 4), CLASSES, 0.75).tolist() == [[[True, False, False, False]]]
    assert agreeing_cells(label, (1, 4), CLASSES, 0.6).tolist() == [[[True, True, False, False]]]
    assert agreeing_cells(label, (1, 4), (0, 8), 0.75).tolist() == [[[False, False, False, True]]]
    assert not agreeing_cells(torch.full((1, 4, 16), 255), (1, 4), CLASSES, 0.75).any()


def test_the_distance_is_the_mean_norm_over_the_mask():
    features, targets = torch.zeros(1, 2, 1, 3), torch.zeros(1, 2, 1, 3)
    features[0, :, 0, 0] = torch.tensor([3.0, 4.0])  # 5
    targets[0, :, 0, 1] = torch.tensor([0.0, -1.0])  # 1
    features[0, :, 0, 2] = 100.0
    mask = torch.tensor([[[True, True, False]]])
    assert feature_distance(features, targets, mask).item() == 3.0
    assert feature_distance(features, features, mask).item() == 0
    assert feature_distance(features, targets, torch.zeros_like(mask)).item() == 0


def test_equal_features_and_empty_masks_have_finite_gradients():
    features = torch.ones(1, 2, 1, 2, requires_grad=True)
    for mask in (torch.ones(1, 1, 2, dtype=torch.bool), torch.zeros(1, 1, 2, dtype=torch.bool)):
        feature_distance(features, torch.ones(1, 2, 1, 2), mask).backward()
        assert features.grad.eq(0).all()


@pytest.mark.parametrize(("name", "changes"), [("mit_b0", {}), ("resnet101", {"depth": 18})])
def test_the_frozen_encoder_keeps_its_weights(tmp_path, name, changes):
    learning, imagenet = (MODELS.build({**backbone_config(name), **changes}) for _ in range(2))
    torch.save(imagenet.state_dict(), tmp_path / "encoder.pth")
    runner = SimpleNamespace(model=SimpleNamespace(backbone=learning, auxiliary=Auxiliary()))
    hook, saved = FrozenEncoder(str(tmp_path / "encoder.pth")), {}
    hook.before_train(runner)
    hook.before_save_checkpoint(runner, saved)
    frozen = runner.model.auxiliary.frozen_encoder
    assert not frozen.training and learning.training and not any(p.requires_grad for p in frozen.parameters())
    assert all(torch.equal(value, imagenet.state_dict()[key]) for key, value in frozen.state_dict().items())
    assert all(p.requires_grad for p in learning.parameters())

    again = FrozenEncoder(str(tmp_path / "encoder.pth"))
    again.after_load_checkpoint(runner, saved)
    again.before_train(runner)  # the same weights
    torch.save(learning.state_dict(), tmp_path / "encoder.pth")
    with pytest.raises(UsageError, match="weights differ from those"):
        again.before_train(runner)


@pytest.mark.parametrize(("two_scales", "shade"), [(False, False), (False, True), (True, False), (True, True)])
def test_the_loss_includes_the_weighted_distance_of_the_last_level(two_scales, shade):
    torch.manual_seed(0)
    terms = {"feature_distance": {"weight": 0.5, "classes": CLASSES, "min_ratio": 0.75}}
    if shade:
        terms["shade"] = {"concentration": 1.0, "weight": 10.0}
    net = build_network(model_config("segformer", "mit_b0", 64, two_scales=two_scales, channels=16, terms=terms)).eval()
    net.auxiliary.base_styles = Styles(
        torch.randn(1, 32), torch.rand(1, 32) + 0.5
    )  # a single style, so nothing is random
    image, label = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long)
    label[0, :56] = 13  # at least 3/4 of each of four cells of 32 pixels, and of HRDA's one of 64; none in the other
    with pytest.raises(UsageError, match="no frozen encoder"):
        net.loss(image, samples(label))
    frozen = build_network(model_config("segformer", "mit_b0", 64, channels=16)).backbone
    net.auxiliary.frozen_encoder = frozen.requires_grad_(False).eval()

    context = half(image) if two_scales else image
    with torch.no_grad(), net.style_hallucination():
        own, theirs = net.backbone(context)[-1], frozen(context)[-1]
    # With SHADE the copy of the first image comes third; it is compared with the original image as well.
    expected = torch.stack([(own[index] - theirs[0]).norm(dim=0) for index in ((0, 2) if shade else (0,))]).mean()
    found = net.loss(image, samples(label))["features.loss_distance"]
    torch.testing.assert_close(found.detach(), 0.5 * expected)
    found.backward()
    assert net.backbone.layers[0][0].projection.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in frozen.parameters())
    assert not any("encoder" in name for name in net.state_dict())
