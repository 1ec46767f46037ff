"""``dgkit train segmenter``: samples in the loss, checkpoints, resuming, refusals."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import yaml

if importlib.util.find_spec("mmseg") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

from dgkit.cli.app import main
from dgkit.errors import DgkitError, InputError, OutputError, UsageError
from dgkit.segmenters.mm_checkpoint import read_checkpoint
from dgkit.segmenters.opening import open_segmenter
from dgkit.training.segmenter import segmenter_training
from dgkit.training.segmenter.hooks import FiguresHook
from dgkit.training.segmenter.mm import BaseDecodeHead
from dgkit.training.segmenter.networks import MEAN, STD, build_network, model_config
from dgkit.training.segmenter.segmenter_recipe import SegmenterRecipe
from dgkit.training.segmenter.segmenter_training import train_segmenter

pytestmark = [
    pytest.mark.filterwarnings("default"),  # mmengine, its use of torch's schedulers and TensorBoard warn
    pytest.mark.usefixtures("small_encoder"),
]


def recipe(micro: dict, **changes: object) -> SegmenterRecipe:
    return SegmenterRecipe.model_validate({**micro, "export": False, **changes})


def weights(path: str) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location="cpu", weights_only=False)["state_dict"]


def test_generated_samples_reach_the_loss(micro, monkeypatch):
    seen = []
    original = BaseDecodeHead.loss_by_feat

    def noting(self, logits, data_samples):
        losses = original(self, logits, data_samples)
        seen.extend(
            (s.origin, set(s.gt_sem_seg.data.unique().tolist()), losses["loss_ce"].item()) for s in data_samples
        )
        return losses

    monkeypatch.setattr(BaseDecodeHead, "loss_by_feat", noting)
    train_segmenter(recipe(micro, train={**micro["train"], "steps": 6, "checkpoint_every": 6}))
    origins = [origin for origin, _, _ in seen]
    assert len(seen) == 12 and 2 <= origins.count("generated") <= 10
    for origin, labels, loss in seen:
        assert (18 in labels) == (origin == "generated") and loss > 0


def test_a_resumed_run_reaches_the_same_weights(micro, tmp_path, capsys, monkeypatch):
    notices: list[str] = []
    whole = train_segmenter(recipe(micro, out=tmp_path / "whole"), notify=notices.append)
    assert "starts from random" in notices[0]

    def stop(stage, done, total, note=""):
        if done == 1:  # its checkpoint is written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_segmenter(recipe(micro, out=tmp_path / "stopped"), stop)
    notices.clear()
    again = train_segmenter(recipe(micro, out=tmp_path / "stopped"), notify=notices.append)
    assert "resuming from" in notices[0] and "iter_1.pth" in notices[0]
    assert capsys.readouterr().out == ""
    one, two = weights(whole["checkpoint"]), weights(again["checkpoint"])
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(UsageError, match="seed=0"):
        train_segmenter(recipe(micro, out=tmp_path / "stopped", seed=1))
    one, two = ((tmp_path / name / "metrics.json").read_text() for name in ("whole", "stopped"))
    assert one == two
    monkeypatch.setattr(segmenter_training, "_train", None)
    assert train_segmenter(recipe(micro, out=tmp_path / "whole")) == {**whole, "finished": True}


def test_a_damaged_result_is_written_again_and_a_second_training_is_refused(micro, tmp_path):
    def second(stage, done, total, note=""):
        with pytest.raises(OutputError, match="another run is writing to"):
            train_segmenter(recipe(micro))

    train_segmenter(recipe(micro), second)
    metrics = Path(micro["out"]) / "metrics.json"
    before = metrics.read_bytes()
    metrics.write_bytes(b"{}")
    notices: list[str] = []
    assert train_segmenter(recipe(micro), notify=notices.append)["finished"] is False
    assert "metrics.json has 2 bytes" in notices[0] and metrics.read_bytes() == before


def test_figures_of_an_earlier_version_are_kept(micro, tmp_path):
    """Its checkpoints hold no figures and have no digests; metrics.json holds the figures."""
    whole = train_segmenter(recipe(micro, train={**micro["train"], "steps": 2}))
    out = Path(micro["out"])
    content = torch.load(whole["checkpoint"], weights_only=False)
    del content["figures"]
    torch.save(content, whole["checkpoint"])
    for name in ("checkpoints.json", "result.json"):
        (out / name).unlink()
    (out / "metrics.json").write_text('{"loss": 0.5, "miou": [[1, 2.5]]}')
    assert train_segmenter(recipe(micro))["loss"] == 0.5
    assert json.loads((out / "metrics.json").read_text()) == {"loss": 0.5, "miou": [[1, 2.5]]}
    (out / "metrics.json").write_text("[]")
    (out / "result.json").unlink()
    with pytest.raises(InputError, match=r"metrics\.json cannot be read"):
        train_segmenter(recipe(micro))


@pytest.mark.parametrize(
    "changes",
    [
        {"pretrained": "nowhere.pth"},
        {"data": {"source": {"root": "nowhere"}}},
        {"data": {"generated": ["nowhere"]}},
        {"data": {"val": {"root": "nowhere"}}},
    ],
)
def test_a_failed_start_leaves_nothing(micro, changes):
    data = {**micro["data"], **changes.get("data", {})}
    with pytest.raises(DgkitError):
        train_segmenter(recipe({**micro, **changes, "data": data}))
    assert not Path(micro["out"]).exists()


def test_weights_that_are_not_finite_are_not_written(micro, monkeypatch):
    def spoil(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 1:
            next(runner.model.parameters()).data[0] = float("nan")

    monkeypatch.setattr(FiguresHook, "after_train_iter", spoil)
    with pytest.raises(DgkitError, match=r"not finite after .* iterations; the last good checkpoint is .*iter_1\.pth"):
        train_segmenter(recipe(micro))
    assert sorted(path.name for path in Path(micro["out"]).glob("*.pth")) == ["iter_1.pth"]


def write_encoder(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    torch.save(build_network(model_config("segformer", "mit_b0", 64, channels=16)).backbone.state_dict(), path)
    return path


def test_a_resumed_run_with_shade_and_feature_distance_reaches_the_same_weights(micro, tmp_path):
    """In bf16. Base styles are chosen before iterations 0 and 2; the run is stopped between them."""
    terms = {
        "pretrained": str(write_encoder(tmp_path / "mit.pth", 1)),
        "feature_distance": {"classes": [0, 2, 18]},
        "shade": {"styles": 3, "refresh": 2},
        "train": {**micro["train"], "steps": 3, "precision": "bf16"},
    }
    whole = train_segmenter(recipe(micro, **terms, out=tmp_path / "whole"))

    def stop(stage, done, total, note=""):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_segmenter(recipe(micro, **terms, out=tmp_path / "stopped"), stop)
    other = {**terms, "pretrained": str(write_encoder(tmp_path / "other.pth", 2))}
    with pytest.raises(UsageError, match="weights differ from those"):
        train_segmenter(recipe(micro, **other, out=tmp_path / "stopped"))
    moved = {**terms, "pretrained": str((tmp_path / "mit.pth").rename(tmp_path / "moved.pth"))}
    again = train_segmenter(recipe(micro, **moved, out=tmp_path / "stopped"))
    one, two = weights(whole["checkpoint"]), weights(again["checkpoint"])
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    # The encoder is saved once, and the names of the weights are those of a network without the terms.
    plain = build_network(model_config("segformer", "mit_b0", 64, channels=16))
    assert list(one) == list(plain.state_dict())

    before, after = (read_checkpoint(tmp_path / "whole" / f"iter_{step}.pth")["base_styles"] for step in (2, 3))
    assert before["mean"].shape == before["std"].shape == (3, 32) and not torch.equal(before["mean"], after["mean"])
    check_reading(Path(whole["checkpoint"]), plain)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "backbone", "two_scales", "channels"),
    [("daformer", "mit_b0", True, 32), ("deeplabv2", "resnet101", False, 64)],
)
def test_the_extra_terms_work_with_other_networks(micro, tmp_path, head, backbone, two_scales, channels):
    network = build_network(model_config(head, backbone, 64, two_scales=two_scales, channels=16))
    torch.save(network.backbone.state_dict(), tmp_path / "encoder.pth")
    changes = {
        "head": head,
        "backbone": backbone,
        "two_scales": two_scales,
        "pretrained": str(tmp_path / "encoder.pth"),
    }
    terms = {"feature_distance": {"classes": [0, 2, 18]}, "shade": {"styles": 3}}
    made = train_segmenter(recipe(micro, **changes, **terms))
    kept = read_checkpoint(Path(made["checkpoint"]))
    assert kept["base_styles"]["mean"].shape == (3, channels) and 0 < made["loss"] < float("inf")
    assert list(kept["state_dict"]) == list(network.state_dict())


def check_reading(checkpoint: Path, plain: torch.nn.Module) -> None:
    """Check that dgkit eval and mmsegmentation read the checkpoint as a network without the extra terms."""
    from mmseg.apis import init_model

    plain.load_state_dict(weights(str(checkpoint)))
    theirs = init_model(str(checkpoint.with_name("config.py")), str(checkpoint), device="cpu")
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with open_segmenter(checkpoint, device="cpu") as ours, torch.no_grad():
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        normal = (images - mean) / std
        expected = plain.eval()._forward(normal)
        assert torch.allclose(theirs._forward(normal), expected)
        large = torch.nn.functional.interpolate(expected, size=(64, 96), mode="bilinear")
        assert torch.allclose(ours.logits(images), large, atol=1e-4)


def test_the_command_writes_checkpoints_figures_and_onnx(micro, tmp_path, source, capsys):
    micro["data"]["val"] = {"root": str(source)}
    micro["train"]["validate_every"] = 2
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(micro))
    assert main(["train", "segmenter", str(path), "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert "starts from random" in printed.err
    out = tmp_path / "out"
    assert (out / "segmenter.onnx").exists() and (out / "segmenter.yaml").exists() and (out / "config.py").exists()
    assert result["checkpoint"].endswith("iter_2.pth") and result["best"].endswith("best_mIoU_iter_2.pth")
    assert list(out.rglob("events.out.tfevents*"))
    ((step, miou),) = json.loads((out / "metrics.json").read_text())["miou"]
    assert step == 2 and 0 <= miou <= 100
    for name in ("checkpoint", "best"):  # validation adds entries to both
        check_same(Path(result[name]), out / "segmenter.onnx")


def check_same(checkpoint: Path, onnx: Path) -> None:
    """Check that dgkit eval reads the config next to a checkpoint as data and gets the logits of the exported file."""
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with open_segmenter(checkpoint, device="cpu") as one, open_segmenter(onnx, device="cpu") as two:
        assert torch.allclose(one.logits(images), two.logits(images), atol=1e-3)


def test_fp16_needs_a_gpu(micro, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="needs a GPU"):
        train_segmenter(recipe(micro, train={"precision": "fp16"}))


def test_bf16_trains_on_any_device(micro, monkeypatch):
    """Logits come out of the heads in bf16, the weights stay fp32, and the loss is close to that of fp32."""
    seen = []
    original = BaseDecodeHead.loss_by_feat
    monkeypatch.setattr(BaseDecodeHead, "loss_by_feat", lambda *args: seen.append(args[1].dtype) or original(*args))
    train = {**micro["train"], "steps": 2}
    made = train_segmenter(recipe(micro, train={**train, "precision": "bf16"}, out=Path(micro["out"]) / "bf16"))
    assert set(seen) == {torch.bfloat16}
    kept = weights(made["checkpoint"]).values()
    assert {value.dtype for value in kept if value.is_floating_point()} == {torch.float32}
    exact = train_segmenter(recipe(micro, train=train, out=Path(micro["out"]) / "fp32"))
    assert made["loss"] == pytest.approx(exact["loss"], rel=0.02)
