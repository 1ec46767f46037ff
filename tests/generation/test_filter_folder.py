"""``dgkit filter`` with known losses: an ONNX network that reads the colours of the palette."""

import json
import multiprocessing
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dgkit.cli.app import main
from dgkit.data.filtering import judge
from dgkit.data.generated import FILTERED
from dgkit.data.labelmap import read_label, write_label
from dgkit.data.manifest import Manifest
from dgkit.errors import InputError, OutputError, UsageError
from dgkit.files import digest_file
from dgkit.generation import filter_measurement
from dgkit.generation.filter_folder import filter_folder
from dgkit.labels import CLASSES, PALETTE
from dgkit.segmenters.onnx import open_onnx_segmenter
from tests import crash
from tests.scenes import snapshot
from tests.segmenters.onnx_files import label_model, palette_model

pytest.importorskip("onnxruntime")
CAR, ROAD, SKY = (CLASSES.index(name) for name in ("car", "road", "sky"))


def label_of(seed: int, size: int = 32) -> np.ndarray:
    """Road below, sky above, a car, ignore at the bottom."""
    label = np.full((size, size), SKY, np.uint8)
    label[size // 2 :] = ROAD
    x = 4 + 4 * (seed % 4)
    label[20:26, x : x + 8] = CAR
    label[-2:] = 255
    return label


def image_of(label: np.ndarray, seed: int = 0) -> np.ndarray:
    """The label's colours with noise, ignore in black."""
    noise = np.random.default_rng(seed).normal(0, 12, (*label.shape, 3))
    return np.clip(PALETTE[np.where(label == 255, 0, label)] + noise, 0, 255).astype(np.uint8)


def add(out: Path, name: str, image: np.ndarray, label: np.ndarray) -> None:
    """One scene as ``dgkit generate`` writes it."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(out / "images" / f"{name}.png")
    write_label(out / "labels" / f"{name}_labelTrainIds.png", label)
    record: dict[str, Any] = {"id": name, "style": "night"}
    for kind, path in (("image", f"images/{name}.png"), ("label", f"labels/{name}_labelTrainIds.png")):
        record |= {kind: path, f"{kind}_sha256": digest_file(out / path)}
    Manifest(out / "manifest.jsonl").append(record)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return palette_model(tmp_path_factory.mktemp("net") / "s.onnx", sharpness=30)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Four scenes; in the second the car is painted as road."""
    folder = tmp_path / "out"
    for seed in range(4):
        label = label_of(seed)
        shown = np.where(label == CAR, ROAD, label) if seed == 1 else label
        add(folder, f"s{seed}", image_of(shown, seed), label)
    return folder


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / FILTERED / "manifest.jsonl").read_text().splitlines()]


def test_pixels_above_the_mean_of_their_class_are_ignored(out: Path, segmenter: Path) -> None:
    """Apply the rule to the whole folder, literally, and compare with the written labels."""
    before = snapshot(out)
    found = filter_folder(out, segmenter=segmenter)
    network = open_onnx_segmenter(segmenter)
    labels = [label_of(seed) for seed in range(4)]
    images = [np.asarray(Image.open(out / f"images/s{seed}.png")) for seed in range(4)]
    losses = [
        judge(network.image_logits(image), network.classes, label).loss
        for image, label in zip(images, labels, strict=True)
    ]
    ignored = 0
    for seed in range(4):
        expected = labels[seed].copy()
        for class_id in (CAR, ROAD, SKY):
            everywhere = [loss[label == class_id] for loss, label in zip(losses, labels, strict=True)]
            mean = np.concatenate(everywhere).astype(np.float64).mean()
            expected[(labels[seed] == class_id) & (losses[seed] > 1.25 * mean)] = 255
        ignored += int((expected != labels[seed]).sum())
        assert np.array_equal(read_label(out / FILTERED / f"s{seed}_labelTrainIds.png"), expected)
    filtered = read_label(out / FILTERED / "s1_labelTrainIds.png")
    assert (filtered[label_of(1) == CAR] == 255).all()
    assert found["classes"]["car"]["doubtful"] >= 48 and found["scenes"] == found["kept"] == 4
    assert sum(facts["doubtful"] for facts in found["classes"].values()) == ignored
    assert found["agreement"]["least"] < 0.96 < found["agreement"]["mean"]
    assert {name: data for name, data in snapshot(out).items() if not name.startswith(FILTERED)} == before


def test_the_filtered_manifest_states_files_digests_and_agreement(out: Path, segmenter: Path) -> None:
    filter_folder(out, segmenter=segmenter)
    lines, first = lines_of(out), Manifest(out / "manifest.jsonl").read()
    assert [line["id"] for line in lines] == ["s0", "s1", "s2", "s3"]
    for line, record in zip(lines, first, strict=True):
        assert (line["image"], line["style"]) == (record["image"], "night")
        assert line["image_sha256"] == digest_file(out / line["image"]) == record["image_sha256"]
        assert line["label_sha256"] == digest_file(out / line["label"]) and line["label"].startswith(f"{FILTERED}/")
        assert line["source_label_sha256"] == record["label_sha256"]
        assert sum(line["pixels"].values()) == 30 * 32
    assert min(lines, key=lambda line: line["agreement"])["id"] == "s1"
    summary = json.loads((out / FILTERED / "filter.json").read_text())
    assert summary["settings"]["threshold"] == 1.25 and summary["segmenter_sha256"] == digest_file(segmenter)


def test_a_stopped_filter_resumes_with_the_same_result(out: Path, segmenter: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "other")
    filter_folder(out, segmenter=segmenter)
    whole = snapshot(out / FILTERED)
    for stage, stop in (("measure", 2), ("filter", 1), ("filter", 3)):

        def interrupt(at: str, done: float, total: float, stage: str = stage, stop: int = stop) -> None:
            if (at, done) == (stage, stop):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            filter_folder(tmp_path / "other", segmenter=segmenter, progress=interrupt)
        assert not (tmp_path / "other" / FILTERED / "manifest.jsonl").exists()
    filter_folder(tmp_path / "other", segmenter=segmenter)
    assert snapshot(tmp_path / "other" / FILTERED) == whole


@pytest.mark.slow
def test_kills_inside_any_file_operation_change_nothing(out: Path, segmenter: Path, tmp_path: Path) -> None:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["dgkit.generation.filter_folder", "onnxruntime", "torch"])
    other = tmp_path / "other"
    shutil.copytree(out, other)
    filter_folder(out, segmenter=segmenter)
    flags = ["--segmenter", str(segmenter)]
    codes = []
    for operation in (0, 1, 1, 2, 2, 3, 3, 2):  # each run resumes the one that was killed
        process = server.Process(target=crash.run_until, args=(["filter", str(other), *flags], operation))
        process.start()
        process.join(120)
        codes.append(process.exitcode)
        if (other / FILTERED / "manifest.jsonl").exists():
            assert all(line["label_sha256"] == digest_file(other / line["label"]) for line in lines_of(other))
    assert codes == [-signal.SIGKILL] * 8
    filter_folder(other, segmenter=segmenter)
    assert snapshot(other / FILTERED) == snapshot(out / FILTERED)


def test_finished_work_is_not_repeated(out: Path, segmenter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[int] = []
    real = filter_measurement.judge
    monkeypatch.setattr(filter_measurement, "judge", lambda *given: (judged.append(1), real(*given))[1])
    filter_folder(out, segmenter=segmenter)
    whole = snapshot(out / FILTERED)
    assert len(judged) == 4  # the loss of measuring serves filtering
    filter_folder(out, segmenter=segmenter)
    assert len(judged) == 4 and snapshot(out / FILTERED) == whole
    add(out, "s9", image_of(label_of(2), 9), label_of(2))
    assert filter_folder(out, segmenter=segmenter)["scenes"] == 5
    assert len(judged) == 5 + 4  # one is new; it changes the means, so all are judged again
    Image.fromarray(image_of(label_of(3), 77)).save(out / "images" / "s3.png")
    filter_folder(out, segmenter=segmenter)
    assert lines_of(out)[3]["image_sha256"] == digest_file(out / "images" / "s3.png")
    monkeypatch.setattr(filter_measurement, "CACHE_BYTES", 0)
    (out / FILTERED / ".measured.jsonl").unlink()
    (out / FILTERED / "filter.json").rename(
        out / "filter.json"
    )  # without its files the folder is not one of dgkit filter
    with pytest.raises(OutputError, match="files that dgkit filter did not write"):
        filter_folder(out, segmenter=segmenter)


def test_labels_do_not_depend_on_cached_losses(out: Path, segmenter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filter_folder(out, segmenter=segmenter)
    whole = snapshot(out / FILTERED)
    shutil.rmtree(out / FILTERED)
    monkeypatch.setattr(filter_measurement, "CACHE_BYTES", 0)
    filter_folder(out, segmenter=segmenter)
    assert snapshot(out / FILTERED) == whole


def test_another_threshold_replaces_the_labels(out: Path, segmenter: Path) -> None:
    few = filter_folder(out, segmenter=segmenter, threshold=50.0)["ignored_share"]
    many = filter_folder(out, segmenter=segmenter, threshold=0.5)["ignored_share"]
    assert few < many
    for line in lines_of(out):
        assert line["label_sha256"] == digest_file(out / line["label"])


def test_means_of_a_labelled_set(out: Path, segmenter: Path, tmp_path: Path) -> None:
    own = filter_folder(out, segmenter=segmenter)
    for seed in range(3):
        add(tmp_path / "real", f"r{seed}", image_of(label_of(seed), 20 + seed), label_of(seed))
    stages: set[str] = set()
    real = filter_folder(
        out, segmenter=segmenter, reference=str(tmp_path / "real"), progress=lambda stage, *_: stages.add(stage)
    )
    assert "reference" in stages
    assert real["classes"]["car"]["mean_loss"] < own["classes"]["car"]["mean_loss"]  # it has no car painted as road
    assert filter_folder(out, segmenter=segmenter, reference=f"gta={tmp_path / 'real'}")["classes"] == real["classes"]


def test_a_reference_in_another_encoding_is_measured_again(out: Path, segmenter: Path, tmp_path: Path) -> None:
    add(tmp_path / "real", "r", image_of(label_of(0), 20), label_of(0))
    pattern = f"pairs={tmp_path}/real/images/*::{tmp_path}/real/labels/*"
    first = filter_folder(out, segmenter=segmenter, reference=f"{pattern}::train_ids")
    table = tmp_path / "real" / "colours.csv"
    table.write_text("".join(f"{(i + 1) % 19},{i},{i},{i}\n" for i in range(19)) + "ignore,255,255,255")
    other = filter_folder(out, segmenter=segmenter, reference=f"{pattern}::colours@{table}")
    assert first["classes"] != other["classes"]


def test_photographs_that_are_read_differently_are_measured_again(
    out: Path, segmenter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, exif = Image.open(out / "images/s0.png"), Image.Exif()
    exif[0x0112] = 3
    image.save(out / "images/s0.png", exif=exif)
    record = {**Manifest(out / "manifest.jsonl").read()[0], "image_sha256": digest_file(out / "images/s0.png")}
    Manifest(out / "manifest.jsonl").append({**record, "id": "s9"})
    found = {}
    for value in ("ignore", "apply", "ignore"):
        monkeypatch.setenv("DGKIT_EXIF", value)
        filter_folder(out, segmenter=segmenter)
        found[value] = lines_of(out)
        fresh = out.parent / value
        shutil.copytree(out, fresh, ignore=lambda *_: [FILTERED], dirs_exist_ok=True)
        filter_folder(fresh, segmenter=segmenter)
        assert lines_of(fresh) == lines_of(out)
    assert found["ignore"] != found["apply"]


def test_scenes_with_low_agreement_and_duplicates_are_left_out(out: Path, segmenter: Path) -> None:
    add(out, "s4", image_of(label_of(0), 0), label_of(0))  # the image of s0
    filter_folder(out, segmenter=segmenter)
    found = filter_folder(out, segmenter=segmenter, min_agreement=0.97, duplicates=0)
    assert set(found["left_out"]) == {"s1", "s4"} and found["left_out"]["s4"] == "near-duplicate of s0"
    assert [line["id"] for line in lines_of(out)] == ["s0", "s2", "s3"]
    assert sorted(path.name for path in (out / FILTERED).glob("*.png")) == [
        f"s{seed}_labelTrainIds.png" for seed in (0, 2, 3)
    ]


def test_a_band_needs_no_segmenter(out: Path) -> None:
    found = filter_folder(out, boundary=1)
    filtered, label = read_label(out / FILTERED / "s0_labelTrainIds.png"), label_of(0)
    assert (filtered[15:17, 0] == 255).all() and filtered[13, 0] == SKY and filtered[18, 0] == ROAD
    assert found["agreement"] is None and found["classes"]["road"]["doubtful"] == 0
    assert found["ignored_share"] == (filtered != label).sum() / (label != 255).sum()


def test_a_folder_without_a_manifest(out: Path, segmenter: Path) -> None:
    filter_folder(out, segmenter=segmenter)
    whole = {name: data for name, data in snapshot(out / FILTERED).items() if name.endswith(".png")}
    shutil.rmtree(out / FILTERED)
    (out / "manifest.jsonl").unlink()
    filter_folder(out, segmenter=segmenter)
    assert {name: data for name, data in snapshot(out / FILTERED).items() if name.endswith(".png")} == whole


def test_wrong_settings_and_files_are_refused(out: Path, segmenter: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to filter by"):
        filter_folder(out)
    with pytest.raises(UsageError, match="--min-agreement needs a segmenter"):
        filter_folder(out, boundary=1, min_agreement=0.5)
    with pytest.raises(UsageError, match="boundary"):
        filter_folder(out, boundary=9)
    with pytest.raises(InputError, match="there is no such folder"):
        filter_folder(tmp_path / "none", boundary=1)
    with pytest.raises(InputError, match="no such file"):
        filter_folder(out, segmenter=tmp_path / "none.onnx")
    assert not (out / FILTERED).exists()
    with pytest.raises(InputError, match="class numbers"):
        filter_folder(out, segmenter=label_model(tmp_path / "l.onnx"))
    (out / "images" / "s2.png").unlink()
    with pytest.raises(InputError, match=r"s2\.png: No such file"):
        filter_folder(out, segmenter=segmenter)


def test_a_folder_in_the_place_of_the_journal_is_refused(out: Path) -> None:
    filter_folder(out, boundary=1)
    (out / FILTERED / ".written.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*\.written\.jsonl"):
        filter_folder(out, boundary=2)
    assert len(lines_of(out)) == 4  # nothing is lost


def test_command_line(out: Path, segmenter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["filter", str(out), "--segmenter", str(segmenter), "--boundary", "1"]) == 0
    captured = capsys.readouterr()
    assert "4 of 4 scenes" in captured.out and "car" in captured.out and "train" not in captured.out
    assert "agreement of the scenes" in captured.err and "0 scenes dropped" in captured.err
    assert main(["filter", str(out), "--segmenter", str(segmenter), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 4
    assert main(["filter", str(out)]) == 2
    assert "hint: add --segmenter FILE.onnx" in capsys.readouterr().err


def test_logits_that_are_not_finite_are_refused(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = palette_model(tmp_path / "nan.onnx", bias_of_wall=float("inf"))
    assert main(["filter", str(out), "--segmenter", str(broken)]) == 1
    assert (
        f"error: {broken}: output 'logits' is NaN or infinite for {out / 'images' / 's0.png'}"
        in capsys.readouterr().err
    )


def test_a_segmenter_that_sees_few_labels_is_a_warning(
    out: Path, segmenter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["filter", str(out), "--segmenter", str(segmenter)]
    assert main(command) == 0
    assert "of the pixels as labelled" not in capsys.readouterr().err
    shutil.rmtree(out / FILTERED)
    noise = np.random.default_rng(0)
    for path in (out / "images").iterdir():
        with Image.open(path) as opened:
            size = opened.height, opened.width
        Image.fromarray(PALETTE[noise.integers(0, 19, size)].astype(np.uint8)).save(path)
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "warning: the segmenter sees only" in said and "were dropped" not in said
    assert main([*command, "--min-agreement", "1"]) == 0
    assert "warning: more than 80% of the pixels or scenes were dropped" in capsys.readouterr().err
