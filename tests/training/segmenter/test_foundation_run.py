"""``dgkit train segmenter`` with foundation encoders: resuming, files, evaluation."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("mmseg") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

from dgkit.segmenters.mm_checkpoint import read_checkpoint
from dgkit.segmenters.opening import open_segmenter
from dgkit.training.segmenter import runner_config
from dgkit.training.segmenter.runner_config import block_rates, optimiser
from dgkit.training.segmenter.segmenter_recipe import SegmenterRecipe, SegmenterSchedule
from dgkit.training.segmenter.segmenter_training import train_segmenter
from tests.training.segmenter.encoders import encoder_folder, save_encoder
from tests.training.segmenter.test_run import check_same, weights

pytestmark = pytest.mark.filterwarnings("default")  # mmengine, its use of torch's schedulers and TensorBoard warn


@pytest.fixture(autouse=True)
def small_heads(monkeypatch):
    """Shrink the query heads, which have no settings of their own in a recipe."""
    original = runner_config.model_config

    def small(head, *args, **kwargs):
        config = original(head, *args, **kwargs)
        few = {"points": 64, "queries": 8} if head in ("mask2former", "eomt") else {}
        few |= {"encoder_layers": 1, "decoder_layers": 1} if head == "mask2former" else {}
        few |= {"blocks": 2} if head == "eomt" else {}
        config["decode_head"] |= few
        return config

    monkeypatch.setattr(runner_config, "model_config", small)


def recipe(micro: dict, **changes: object) -> SegmenterRecipe:
    return SegmenterRecipe.model_validate({**micro, "export": False, "channels": 32, **changes})


def stop(stage, done, total, note=""):
    if done == 1:
        raise KeyboardInterrupt


REIN = {"head": "mask2former", "freeze": True, "rein": {"tokens": 8, "rank": 2}}
LORA = {"head": "eomt", "freeze": True, "lora": {"rank": 2}}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        pytest.param("dinov2", REIN, id="rein-mask2former"),
        pytest.param("dinov2", {"head": "eomt", "train.layer_decay": 0.8}, id="eomt"),
        pytest.param("swin", {"head": "upernet", "freeze": "norms"}, id="upernet", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_reaches_the_same_weights(micro, tmp_path, kind, changes):
    """In bf16, from saved weights; those that are frozen stay."""
    save_encoder(tmp_path / "encoder", kind)
    train = {**micro["train"], "precision": "bf16"}
    train |= {"layer_decay": changes["train.layer_decay"]} if "train.layer_decay" in changes else {}
    settings = {name: value for name, value in changes.items() if "." not in name}
    settings |= {"backbone": f"transformers:{tmp_path / 'encoder'}", "train": train}
    notices: list[str] = []
    whole = train_segmenter(recipe(micro, **settings, out=tmp_path / "whole"), notify=notices.append)
    assert not notices
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(recipe(micro, **settings, out=tmp_path / "stopped"), stop)
    again = train_segmenter(recipe(micro, **settings, out=tmp_path / "stopped"))
    one, two = weights(whole["checkpoint"]), weights(again["checkpoint"])
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert 0 < whole["loss"] < float("inf")
    first = weights(str(tmp_path / "whole" / "iter_1.pth"))
    moved = {name for name in one if not torch.equal(one[name], first[name])}
    frozen = {name for name in one if name.startswith("backbone.encoder.")} if settings.get("freeze") is True else set()
    assert moved and not moved & frozen


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        pytest.param("dinov3_vit", LORA, id="lora-eomt"),
        pytest.param("dinov2", REIN, id="rein-mask2former", marks=pytest.mark.slow),
    ],
)
def test_eval_reads_the_checkpoint_without_the_folder_and_the_exported_file(micro, tmp_path, kind, changes):
    if "lora" in changes:
        pytest.importorskip("peft", reason="needs peft: pip install 'dgkit[train]'")
    backbone = encoder_folder(tmp_path / "encoder", kind)
    notices: list[str] = []
    made = train_segmenter(recipe(micro, **changes, backbone=backbone, export=True), notify=notices.append)
    assert "starts from random weights, which freeze=true keeps" in notices[0]
    for path in (tmp_path / "encoder").iterdir():
        path.unlink()
    check_same(Path(made["checkpoint"]), Path(made["onnx"]))
    for path in (made["checkpoint"], made["onnx"]):
        with open_segmenter(path, device="cpu") as segmenter:
            assert segmenter.values == "scores" and segmenter.values_stated


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["compile", "ort", "openvino"])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        pytest.param("dinov2", REIN, id="rein-mask2former"),
        pytest.param("dinov3_vit", {"head": "eomt"}, id="eomt"),
        pytest.param("swin", {"head": "upernet"}, id="upernet"),
        pytest.param("dinov2_with_registers", LORA, id="lora"),
    ],
)
def test_every_engine_evaluates_a_checkpoint(micro, tmp_path, kind, changes, engine):
    backbone = encoder_folder(tmp_path / "encoder", kind)
    made = train_segmenter(recipe(micro, **changes, backbone=backbone))
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with (
        open_segmenter(made["checkpoint"], device="cpu") as one,
        open_segmenter(made["checkpoint"], engine, device="cpu") as two,
    ):
        expected, found = one.logits(images), two.logits(images)
        assert torch.allclose(found, expected, atol=1e-3)
        assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.99


def test_efficientnet_starts_from_imagenet_weights(micro, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra 'imagenet'")
    settings = {"head": "daformer", "backbone": "efficientnet_lite0", "freeze": True}
    made = train_segmenter(recipe(micro, **settings), notify=print)
    from dgkit.segmenters.efficientnet_lite import imagenet_file

    stored = torch.load(imagenet_file(), weights_only=True)
    kept = weights(made["checkpoint"])
    own = [name for name in kept if name.startswith("backbone.encoder.")]
    assert len(own) > 100 and all(
        torch.equal(kept[name], stored[name.removeprefix("backbone.encoder.")]) for name in own
    )


def test_the_feature_distance_is_to_imagenet_weights(micro):
    """Without ``pretrained``: those of the extra."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra 'imagenet'")
    settings = {"head": "daformer", "backbone": "efficientnet_lite0", "feature_distance": {"classes": [0, 2, 18]}}
    made = train_segmenter(recipe(micro, **settings, train={**micro["train"], "steps": 1}))
    stored = read_checkpoint(Path(made["checkpoint"]))
    assert len(stored["frozen_encoder"]) == 64 and 0 < made["loss"] < float("inf")


def test_gradients_are_clipped_on_request():
    assert "clip_grad" not in optimiser(SegmenterSchedule())
    for precision in ("fp32", "bf16"):
        assert optimiser(SegmenterSchedule(clip=0.01, precision=precision))["clip_grad"] == {"max_norm": 0.01}


def test_optimisers_of_foundation_networks():
    plain = optimiser(SegmenterSchedule())["paramwise_cfg"]
    assert plain == {
        "custom_keys": {"norm": {"decay_mult": 0.0}, "decode_head": {"lr_mult": 10.0}, "scale_head": {"lr_mult": 10.0}}
    }
    found = optimiser(SegmenterSchedule(head_lr=1.0), foundation=True)["paramwise_cfg"]
    assert found["norm_decay_mult"] == 0 and "decode_head" not in found["custom_keys"]
    assert found["custom_keys"]["rein.scale"] == {"decay_mult": 0.0}
    model = {"backbone": {"settings": {"num_hidden_layers": 3}}}
    rates = block_rates(model, 0.5)
    assert [rates[f".layer.{block}."]["lr_mult"] for block in range(3)] == [0.25, 0.5, 1.0]
    assert rates["encoder.embeddings."] == {"lr_mult": 0.25} and rates[".layer.0.norm"]["decay_mult"] == 0
    assert block_rates(model, 1.0) == block_rates({"backbone": {}}, 0.5) == {}
    assert json.loads(json.dumps(rates)) == rates
