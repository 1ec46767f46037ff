"""Query heads and the pairs of foundation encoders and heads: logits, losses, gradients, export."""

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

if importlib.util.find_spec("mmseg") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

from dgkit.segmenters.mmseg import SCORE_HEADS
from dgkit.segmenters.opening import open_segmenter
from dgkit.training.segmenter.heads import GridPool
from dgkit.training.segmenter.network_pairs import EncoderOptions
from dgkit.training.segmenter.networks import build_network, model_config
from dgkit.training.segmenter.query_heads import EomtHead, QueryHead, QueryPrediction, semantic_logits, split_classes
from dgkit.training.segmenter.segmenter_export import export_segmenter
from tests.segmenters.mmseg_files import save
from tests.training.segmenter.encoders import CONFIGS, VITS, encoder_folder
from tests.training.segmenter.test_networks import samples

pytestmark = pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")
HEADS = ("linear", "daformer", "upernet", "mask2former", "eomt", "segformer")
LITE = "efficientnet_lite0"
FROZEN = EncoderOptions(freeze=True)
REIN = EncoderOptions(freeze=True, rein={"tokens": 6, "rank": 2})
LORA = EncoderOptions(freeze=True, lora={"rank": 2, "alpha": 2.0})


def tiny_config(head: str, backbone: str, options: EncoderOptions | None = None, tmp_path=None) -> dict[str, Any]:
    """Return the config of a tiny network; ``backbone`` is a kind of transformers, or a name of a recipe."""
    if backbone == LITE:
        pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra 'imagenet'")
    if options is LORA:
        pytest.importorskip("peft", reason="needs peft: pip install 'dgkit[train]'")
    name = encoder_folder(tmp_path / backbone, backbone) if backbone in CONFIGS else backbone
    config = model_config(head, name, 64, channels=32, encoder=options)
    if head == "mask2former":
        config["decode_head"] |= {"points": 64, "encoder_layers": 1, "decoder_layers": 1}
    if head == "eomt":
        config["decode_head"] |= {"points": 64, "blocks": 2, "queries": 8}
    return config


def network(head: str, backbone: str, options: EncoderOptions | None = None, tmp_path=None):
    """Return a tiny network; ``backbone`` is a kind of transformers, or a name of a recipe."""
    config = tiny_config(head, backbone, options, tmp_path)
    torch.manual_seed(0)
    net = build_network(config)
    for name, parameter in net.named_parameters():
        if "lora_B" in name:  # starts at 0, where the other matrix has no gradient
            torch.nn.init.normal_(parameter)
    for module in net.modules():  # a dropped path has no gradient
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
        if hasattr(module, "_global_params"):
            module._global_params = module._global_params._replace(drop_connect_rate=0.0)
    return net


def pairs() -> list[Any]:
    fitting = [
        (head, backbone)
        for backbone in (*CONFIGS, LITE, "mit_b0")
        for head in HEADS
        if (backbone in VITS or head != "eomt") and (head, backbone) != ("segformer", "mit_b0")
    ]
    return [pytest.param(head, backbone, None, id=f"{backbone}-{head}") for head, backbone in fitting]


ADAPTED = [
    pytest.param("linear", "dinov2", REIN, id="rein-linear"),
    pytest.param("mask2former", "dinov2_with_registers", REIN, id="rein-mask2former"),
    pytest.param("eomt", "dinov3_vit", REIN, id="rein-eomt"),
    pytest.param("daformer", "dinov3_vit", LORA, id="lora-daformer"),
    pytest.param("linear", "swin", LORA, id="lora-swin"),
    pytest.param("upernet", LITE, FROZEN, id="frozen-upernet"),
    pytest.param("daformer", LITE, REIN, id="rein-lite"),
    pytest.param("linear", "mit_b0", EncoderOptions(freeze="norms"), id="norms-mit"),
]


@pytest.mark.parametrize(("head", "backbone", "options"), [*pairs(), *ADAPTED])
def test_losses_reach_what_learns_and_nothing_else(tmp_path, head, backbone, options):
    net = network(head, backbone, options, tmp_path).train()
    label = torch.randint(0, 19, (2, 64, 64))
    label[:, :8] = 255
    losses = net.loss(torch.randn(2, 3, 64, 64), samples(label))
    total = sum(value for name, value in losses.items() if "loss" in name)
    total.backward()
    assert 0 < total < float("inf") and all(name.startswith("decode.") for name in losses)
    learning = {name: p for name, p in net.named_parameters() if p.requires_grad}
    still = [name for name, p in learning.items() if p.grad is None or not p.grad.any()]
    # A bias before a norm or of keys has no effect; all other parameters must learn.
    assert all(name.endswith("bias") for name in still), still
    assert all(p.grad is None for name, p in net.named_parameters() if name not in learning)
    with torch.no_grad():
        found = net.eval()._forward(torch.randn(1, 3, 64, 96))
    side = {"linear": 8 if backbone in VITS else 2, "eomt": 32}.get(head, 32 if backbone in VITS else 16)
    assert found.shape == (1, 19, side, side * 3 // 2) and found.isfinite().all()


def evaluated() -> list[Any]:
    """Return all pairs and adapters, slow but for a ViT and EfficientNet-Lite0."""
    fast = ("dinov2-linear", "dinov2-mask2former", "dinov2-eomt", f"{LITE}-daformer", "rein-lite")
    return [
        pytest.param(*one.values, id=one.id, marks=() if one.id in fast else pytest.mark.slow)
        for one in (*pairs(), *ADAPTED)
    ]


@pytest.mark.parametrize(("head", "backbone", "options"), evaluated())
def test_eval_opens_every_pair(tmp_path, head, backbone, options):
    net = save(tmp_path / "iter_1.pth", tiny_config(head, backbone, options, tmp_path))
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    mean, std = net.data_preprocessor.mean, net.data_preprocessor.std
    with torch.no_grad():
        expected = functional.interpolate(net._forward((images - mean) / std), (64, 96), mode="bilinear")
    with open_segmenter(tmp_path / "iter_1.pth", device="cpu") as found:
        logits = found.logits(images)
        assert found.values == ("scores" if head in ("mask2former", "eomt") else "logits")
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("backbone", ["dinov2", "swin", "resnet", "mit_b0"])
def test_heads_have_the_parameters_of_their_layers(tmp_path, backbone):
    """Batch norms have two numbers per channel; convolutions before them have no bias."""

    def count(head: str) -> int:
        return sum(
            p.numel() for p in build_network(tiny_config(head, backbone, None, tmp_path)).decode_head.parameters()
        )

    inputs = {"dinov2": [32] * 4, "swin": [16, 32, 64, 128], "resnet": [8, 16, 24, 32], "mit_b0": [32, 64, 160, 256]}
    widths, wide, last = inputs[backbone], 32, 19 * 33
    assert count("linear") == 2 * widths[-1] + 19 * (widths[-1] + 1)
    assert count("segformer") == sum(one * wide + 2 * wide for one in widths) + 4 * wide**2 + 2 * wide + last
    pointwise = 4 * wide**2 + 2 * wide
    aspp = pointwise + 3 * (9 * 4 * wide + 2 * 4 * wide + pointwise)
    assert count("daformer") == sum((one + 1) * wide for one in widths) + aspp + 9 * 4 * wide**2 + 2 * wide + last


@pytest.mark.slow
@pytest.mark.parametrize(("head", "backbone", "options"), [*pairs(), *ADAPTED])
def test_files_and_networks_agree_at_any_size(tmp_path, head, backbone, options):
    """The export compares both at another size than that of its example."""
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install 'dgkit[cpu]'")
    net = network(head, backbone, options, tmp_path)
    assert export_segmenter(net, tmp_path / "segmenter.onnx", 64) < 1e-3


# Published sizes. Sources: Oquab et al. (2024); Liu et al., Swin (ICCV 2021), table 1; EfficientNet-Lite's own code.
PUBLISHED = {
    "dinov2": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14},
    "swin": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "backbone", "options", "millions"),
    [
        # 22.1 M with the positions of images of 518 pixels, of which this size needs a twentieth
        ("mask2former", "dinov2", EncoderOptions(freeze=True, rein={"tokens": 100, "rank": 16}, patch=16), 21.6),
        ("eomt", "dinov2", EncoderOptions(patch=16), 21.6),
        ("upernet", "swin", None, 27.5),
        ("mask2former", "swin", None, 27.5),
        ("daformer", LITE, None, 2.95),
    ],
)
def test_published_sizes_are_built_and_exported(tmp_path, head, backbone, options, millions):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install 'dgkit[cpu]'")
    if backbone == LITE:
        pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra 'imagenet'")
    name = LITE if backbone == LITE else encoder_folder(tmp_path / "encoder", backbone, **PUBLISHED[backbone])
    net = build_network(model_config(head, name, 128, encoder=options))
    count = sum(p.numel() for p in net.backbone.encoder.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.02)
    assert export_segmenter(net, tmp_path / "segmenter.onnx", 128) < 1e-3


def test_evaluation_knows_the_heads_that_give_scores():
    heads = [head for head in QueryHead.__subclasses__() if head.__module__ == QueryHead.__module__]
    assert sorted(head.__name__ for head in heads) == sorted(SCORE_HEADS)


def test_semantic_logits_are_the_sum_over_queries():
    found = QueryPrediction(torch.randn(1, 3, 2, 2), torch.randn(1, 3, 5))
    classes, masks = found.classes.softmax(-1)[0], found.masks.sigmoid()[0]
    for number in range(4):  # the fifth is "no object"
        expected = sum(classes[query, number] * masks[query] for query in range(3))
        torch.testing.assert_close(semantic_logits(found)[0, number], expected)
    assert semantic_logits(found).shape == (1, 4, 2, 2)


def test_labels_are_split_by_class():
    label = torch.tensor([[[0, 5], [255, 5]], [[255, 255], [255, 255]]])
    masks, classes = split_classes(label)
    assert [one.tolist() for one in classes] == [[0, 5], []]
    assert masks[0].tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 1]]] and masks[1].shape == (0, 2, 2)


def perfect(label: torch.Tensor, classes: int, queries: int) -> QueryPrediction:
    """Return predictions whose first queries are the classes of ``label`` [H,W]."""
    masks, numbers = (one[0] for one in split_classes(label[None]))
    found = QueryPrediction(torch.full((1, queries, *label.shape), -20.0), torch.zeros(1, queries, classes + 1))
    found.classes[..., -1] = 20
    for query, number in enumerate(numbers.tolist()):
        found.masks[0, query] = 40 * masks[query] - 20
        found.classes[0, query, number], found.classes[0, query, -1] = 20, 0
    return found


class Stated(QueryHead):
    """A query head with stated predictions."""

    def predictions(self, inputs: Any) -> list[QueryPrediction]:
        return inputs


def test_the_loss_is_small_for_a_perfect_prediction_whatever_the_order_of_queries():
    head = Stated(queries=4, points=64, in_channels=4, channels=4, num_classes=19, in_index=0)
    label = torch.zeros(32, 32, dtype=torch.long)
    label[:, 16:] = 7
    right = perfect(label, 19, 4)
    order = [2, 0, 3, 1]
    turned = QueryPrediction(right.masks[:, order], right.classes[:, order])
    for found in (right, turned):
        losses = head.loss([found], samples(label[None]))
        assert losses["loss_cross_entropy"] < 1e-6
        assert losses["loss_mask"] < 5 and losses["loss_dice"] < 0.5  # of points on the border of a mask
        assert torch.equal(head.forward([found])[0].argmax(0), label)
    empty = QueryPrediction(torch.full_like(right.masks, -20.0), right.classes)
    one, two = head.loss([empty], samples(label[None])), head.loss([empty, empty], samples(label[None]))
    assert one["loss_mask"] > 20 and one["loss_dice"] > 4 and one["loss_cross_entropy"] < 1e-6
    assert two["loss_dice"].item() == pytest.approx(2 * one["loss_dice"].item(), rel=0.01)
    other = QueryPrediction(right.masks, right.classes.roll(1, dims=-1))
    assert head.loss([other], samples(label[None]))["loss_cross_entropy"] > 5


def test_images_without_a_class_have_a_loss():
    head = Stated(queries=4, points=64, in_channels=4, channels=4, num_classes=19, in_index=0)
    label = torch.full((1, 16, 16), 255)
    losses = head.loss([QueryPrediction(torch.randn(1, 4, 8, 8), torch.randn(1, 4, 20))], samples(label))
    assert losses["loss_mask"] == 0 and losses["loss_cross_entropy"] > 0


def test_masked_attention_ends_block_by_block(tmp_path):
    net = network("eomt", "dinov2", None, tmp_path)
    head: EomtHead = net.decode_head
    head.anneal(0.0)
    assert head.masked == [1.0, 1.0]
    head.anneal(0.375)  # halfway through the second of four parts, in which the first block falls
    assert head.masked == [pytest.approx(0.5**0.9), 1.0]
    head.anneal(1.0)
    assert head.masked == [0.0, 0.0]
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain = net.eval().extract_feat(image)
        free = net.train().extract_feat(image)
        assert len(plain) == 1 and len(free) == 3
        torch.testing.assert_close(free[-1].masks, plain[-1].masks)  # all tokens attend to all
        head.anneal(0.0)
        assert not torch.allclose(net.extract_feat(image)[-1].masks, plain[-1].masks)


def test_a_masked_query_sees_its_mask_alone(tmp_path):
    head: EomtHead = network("eomt", "dinov2", None, tmp_path).decode_head
    masks = torch.full((1, 8, 32, 32), -1.0)
    masks[0, 3, :4, :8] = 1  # patches 0 and 1 of the first row
    grid = type("Grid", (), {"rows": 8, "columns": 8})
    allowed = head._attention(masks, grid, 8 + 1 + 64, 1.0)[0, 0]
    assert allowed[3, 9:].nonzero().flatten().tolist() == [0, 1] and not allowed[0, 9:].any()
    assert allowed[:, :9].all() and allowed[9:].all()


@pytest.mark.parametrize("size", [(7, 9), (12, 6), (3, 5)])
def test_grid_pooling_is_adaptive_average_pooling(size):
    features = torch.randn(2, 3, *size)
    for cells in (1, 2, 3, 6):
        torch.testing.assert_close(GridPool(cells)(features), functional.adaptive_avg_pool2d(features, cells))


def test_upernet_has_the_weights_of_mmsegmentation():
    from mmseg.models import UPerHead

    from dgkit.training.segmenter.heads import UperNetHead

    settings = {
        "in_channels": [8, 8, 8, 8], "in_index": [0, 1, 2, 3], "channels": 16, "num_classes": 19,
        "norm_cfg": {"type": "BN"}, "align_corners": False,
    }  # fmt: skip
    torch.manual_seed(0)
    ours, theirs = UperNetHead(**settings).eval(), UPerHead(**settings).eval()
    theirs.load_state_dict(ours.state_dict())
    features = [torch.randn(1, 8, side, side) for side in (28, 14, 7, 5)]
    with torch.no_grad():
        torch.testing.assert_close(ours(features), theirs(features))
    assert np.isfinite(ours(features).detach().numpy()).all()
