"""``generate`` from end to end, with a tiny model."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dgkit
from dgkit.config import load_config
from dgkit.data.crops import CropBox, crop
from dgkit.data.datasets import label_arrays
from dgkit.data.index import read_scaled
from dgkit.data.labelmap import read_label
from dgkit.data.records import Record
from dgkit.data.samples import Sample
from dgkit.errors import EngineError, InputError, OutputError, UsageError
from dgkit.generation import run, sources
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.guards import memory_errors
from dgkit.generation.verification import verify
from tests.models import make_micro_model
from tests.scenes import FAST, make_label, snapshot

# A batch of another size computes the same sums in another order. Measured on CPU in fp32: at most 1 of 255 levels,
# for values close to a rounding boundary.
PIXEL_BOUND = 1
ELSEWHERE = {"image_sha256": "", "image": "", "label": "", "vis": ""}  # what differs in another folder


@pytest.fixture(scope="module")
def result(micro: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> dgkit.GenerateResult:
    out = tmp_path_factory.mktemp("run") / "out"
    return dgkit.generate(out, labels=labels, model=str(micro), count=5, style_mix="uniform", **FAST)


def test_labels_are_the_crops_bit_for_bit(result: dgkit.GenerateResult, labels: Path) -> None:
    assert len(result.records) == result.written == 5
    ignored = 0
    for record in result.records:
        written = np.asarray(Image.open(result.out / record.label))
        source = read_label(labels / f"{record.source}.png")
        assert np.array_equal(written, crop(source, CropBox(*record.crop)))
        assert np.asarray(Image.open(result.out / record.image)).shape == (64, 64, 3)
        ignored += int((written == 255).sum())
    assert ignored > 0


def test_records_describe_the_images(result: dgkit.GenerateResult) -> None:
    lines = [json.loads(line) for line in result.manifest.read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(5))
    assert [Record.from_json(line).located(result.out) for line in lines] == list(result.records)
    assert set(result.styles) == {"sunny", "snowy", "rainy", "foggy", "night"}
    for record in result.records:
        assert f"in {record.style} weather" in record.prompt_used
    assert result.to_json()["images"] == 5
    assert result.images_per_hour > 0


def test_paths_of_records_open_from_anywhere(result: dgkit.GenerateResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    record = result.records[0]
    shapes = [np.asarray(Image.open(path)).shape for path in (record.image, record.label, record.vis)]
    assert shapes == [(64, 64, 3), (64, 64), (64, 192, 3)]
    assert f'"image": "images/{record.id}.png"' in result.manifest.read_text()


def test_label_maps_passed_as_arrays(labels: Path, micro: Path, tmp_path: Path) -> None:
    arrays = [read_label(path) for path in sorted(labels.glob("*.png"))]
    settings = {"model": str(micro), "count": 2, **FAST}
    made = dgkit.generate(tmp_path / "out", labels=arrays, **settings)
    for record in made.records:
        source = arrays[int(record.source.removeprefix("array-"))]
        assert np.array_equal(read_label(record.label), crop(source, CropBox(*record.crop)))
    config = load_config(GenerateConfig, made.out / "config.yaml")
    assert (config.arrays, config.labels, config.world) == (len(arrays), None, None)

    more = dgkit.generate(made.out, config.model_copy(update={"count": 3}), labels=arrays)
    assert (more.written, more.continued) == (1, 2)
    other = [*arrays[1:], arrays[0]]
    with pytest.raises(OutputError, match="source_digest"):
        dgkit.generate(made.out, labels=other, **(settings | {"count": 3}))
    with pytest.raises(InputError, match="the source has digest"):
        dgkit.generate(made.out, load_config(GenerateConfig, made.out / "config.yaml"), labels=other)
    with pytest.raises(UsageError, match=f"{len(arrays)} label maps that were passed as arrays"):
        dgkit.generate(tmp_path / "new", config)
    assert not (tmp_path / "new").exists()


def test_arrays_that_are_no_label_maps(tmp_path: Path) -> None:
    good, road = np.zeros((8, 8), np.int64), np.full((8, 8), 7)
    for arrays, message in (
        ([], "empty list"),
        ([good, np.zeros((8, 8))], r"labels\[1\]: float64"),
        ([good + 40], r"labels\[0\]: unknown ids"),
        ([good[None]], r"labels\[0\]: int64 array of shape \(1, 8, 8\); a label map is a 2-D array \(height, width\)"),
        ([[[1, 2], [3, 4]]], r"labels\[0\]: a list; a label map is a 2-D array \(height, width\), best of uint8"),
    ):
        with pytest.raises(dgkit.DgkitError, match=message):
            dgkit.generate(tmp_path / "out", labels=arrays)
    with pytest.raises(UsageError, match=r"labels=\[array, \.\.\.\] and --world cannot"):
        dgkit.generate(tmp_path / "out", labels=[good], world=3)
    cityscapes = label_arrays([road], "cityscapes_ids").samples[0]
    assert (cityscapes.train_ids() == 0).all()
    assert cityscapes.sha256() == label_arrays([good]).samples[0].sha256()


def test_earlier_names_of_style_mixes_are_the_same_settings() -> None:
    for earlier, now in (("code", "official"), ("released", "published")):
        assert load_config(GenerateConfig, {"style_mix": earlier}) == load_config(GenerateConfig, style_mix=now)


def test_a_finished_folder_is_left_alone(
    result: dgkit.GenerateResult, labels: Path, micro: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(result.out)
    monkeypatch.setattr(run, "_generate_missing", None)  # would fail if it were called
    again = dgkit.generate(result.out, labels=labels, model=str(micro), count=5, style_mix="uniform", **FAST)
    assert (again.written, again.continued, again.records) == (0, 5, result.records)
    assert snapshot(result.out) == before


def test_its_config_reproduces_the_folder(result: dgkit.GenerateResult, tmp_path: Path) -> None:
    config = load_config(GenerateConfig, result.out / "config.yaml")
    assert dgkit.generate(tmp_path / "out", config).written == 5
    assert snapshot(tmp_path / "out") == snapshot(result.out)


def test_a_recipe_requires_its_model_and_label_maps(result: dgkit.GenerateResult, tmp_path: Path, labels: Path) -> None:
    config = load_config(GenerateConfig, result.out / "config.yaml")
    other = make_micro_model(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="the model has digest"):
        dgkit.generate(tmp_path / "out", config.model_copy(update={"model": str(other)}))
    (tmp_path / "less").mkdir()
    (tmp_path / "less/0.png").write_bytes((labels / "0.png").read_bytes())
    with pytest.raises(InputError, match="the source has digest"):
        dgkit.generate(tmp_path / "out", config.model_copy(update={"labels": tmp_path / "less"}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("batch", [1, 7])
def test_another_batch_changes_pixels_within_rounding_only(
    result: dgkit.GenerateResult, labels: Path, micro: Path, tmp_path: Path, batch: int
) -> None:
    settings = FAST | {"batch": batch}
    other = dgkit.generate(tmp_path / "out", labels=labels, model=str(micro), count=5, style_mix="uniform", **settings)
    worst = 0
    for mine, theirs in zip(result.records, other.records, strict=True):
        assert dataclasses.replace(mine, **ELSEWHERE) == dataclasses.replace(theirs, **ELSEWHERE)
        pixels = [np.asarray(Image.open(r.out / s.image)).astype(int) for r, s in ((result, mine), (other, theirs))]
        worst = max(worst, int(np.abs(pixels[0] - pixels[1]).max()))
    print(f"batch {batch} against 4: at most {worst} grey levels")
    assert worst <= PIXEL_BOUND


def test_a_growing_count_keeps_the_images_that_are_there(labels: Path, micro: Path, tmp_path: Path) -> None:
    settings = {"labels": labels, "model": str(micro), **FAST}
    dgkit.generate(tmp_path / "out", count=2, **settings)
    before = snapshot(tmp_path / "out")
    grown = dgkit.generate(tmp_path / "out", count=4, **settings)
    assert (grown.continued, grown.written) == (2, 2)
    after = snapshot(tmp_path / "out")
    assert all(after[name] == data for name, data in before.items() if name.startswith(("images/", "labels/")))
    dgkit.generate(tmp_path / "whole", count=4, **settings)
    assert after == snapshot(tmp_path / "whole")
    with pytest.raises(OutputError, match="count: 4 -> 3"):
        dgkit.generate(tmp_path / "out", count=3, **settings)


def test_the_city_is_the_default_source(micro: Path, tmp_path: Path) -> None:
    first = dgkit.generate(tmp_path / "a", world=2, count=2, model=str(micro), **FAST)
    assert {record.source for record in first.records} <= {"city0-000000", "city0-000001"}
    config = load_config(GenerateConfig, first.out / "config.yaml")
    assert config.labels is None and config.world == 2
    assert dgkit.generate(tmp_path / "b", config).written == 2
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_maps_are_scaled_to_the_height_of_the_model(tmp_path: Path, labels: Path) -> None:
    model = make_micro_model(tmp_path / "model", defaults={"label_height": 64, "name": "half", "guidance_scale": 2.0})
    result = dgkit.generate(tmp_path / "out", labels=labels, model=str(model), count=1, **FAST)
    assert result.model == "half"
    assert result.records[0].label_scale == pytest.approx(64 / 96)
    config = load_config(GenerateConfig, result.out / "config.yaml")
    assert (config.guidance_scale, config.size) == (2.0, (64, 64))
    native = dgkit.generate(tmp_path / "native", labels=labels, model=str(model), count=1, label_scale=1, **FAST)
    assert native.records[0].label_scale == 1


def test_maps_smaller_than_the_image_are_padded_with_ignore(tmp_path: Path, micro: Path) -> None:
    (tmp_path / "labels").mkdir()
    Image.fromarray(make_label(0, 40, 48)).save(tmp_path / "labels/small.png")
    said: list[str] = []
    settings = {"labels": tmp_path / "labels", "model": str(micro), "count": 1, **FAST}
    result = dgkit.generate(tmp_path / "out", label_scale=1, notify=said.append, **settings)
    assert "1 of 1 label maps" in said[0] and "53% of such an image" in said[0]
    written = np.asarray(Image.open(result.out / result.records[0].label))
    assert (written[40:] == 255).all() and (written[:, 48:] == 255).all()
    assert np.array_equal(written[:40, :48], make_label(0, 40, 48))


@pytest.mark.parametrize(("size", "label_height"), [("64x128", 64), ("128x64", 64), ("128x192", None), ("64x192", 64)])
def test_maps_are_enlarged_to_fill_the_image(tmp_path: Path, labels: Path, size: str, label_height: int | None) -> None:
    model = make_micro_model(
        tmp_path / "model", defaults={} if label_height is None else {"label_height": label_height}
    )
    said: list[str] = []
    settings = {"labels": labels, "model": str(model), "count": 2, "size": size, **FAST}
    result = dgkit.generate(tmp_path / "out", notify=said.append, **settings)
    height, width = map(int, size.split("x"))
    for record in result.records:
        assert record.label_scale == max(height / 96, width / 160)
        x, y, *_ = record.crop
        whole = read_scaled(Sample("", labels / f"{record.source}.png", None, "train_ids"), record.label_scale)
        label = np.asarray(Image.open(result.out / record.label))
        assert np.array_equal(label, whole[y : y + height, x : x + width])  # nothing of it is padding
    assert [line for line in said if f"fill images of {width}x{height}" in line]
    assert not [line for line in said if "padding" in line]
    again = dgkit.generate(tmp_path / "again", load_config(GenerateConfig, result.out / "config.yaml"))
    assert snapshot(again.out) == snapshot(result.out)


def test_a_scale_that_fills_the_image_is_the_one_of_the_model() -> None:
    assert sources.filling_scale((1052, 1914), (256, 256), 256 / 1052) == 256 / 1052
    assert sources.filling_scale((1052, 1914), (256, 465), 256 / 1052) == 256 / 1052
    assert sources.filling_scale((1052, 1914), (512, 1024), 256 / 1052) == 1024 / 1914
    assert sources.filling_scale((10, 10), (512, 512)) == 16


def test_an_old_folder_of_padded_city_scenes_still_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before scenes were made to fill the image, a model's own height was kept: such a folder can be repaired."""
    model = make_micro_model(tmp_path / "model", defaults={"label_height": 64})
    settings = {"world": 2, "count": 2, "model": str(model), "size": "64x192", **FAST}
    old = dgkit.generate(tmp_path / "old", label_scale=64 / 256, **settings)
    config = (old.out / "config.yaml").read_text().replace("label_scale: 0.25", "label_scale: null")
    (old.out / "config.yaml").write_text(config)
    before = snapshot(old.out)
    (old.out / old.records[0].image).unlink()
    assert verify(old.out, repair=True).problems == ()
    assert snapshot(old.out) == before
    new = dgkit.generate(tmp_path / "new", **settings)
    assert all((np.asarray(Image.open(new.out / record.label)) != 255).any(axis=0).all() for record in new.records)


def test_size_need_not_be_square(tmp_path: Path, micro: Path, labels: Path) -> None:
    result = dgkit.generate(tmp_path / "out", labels=labels, model=str(micro), count=1, size="64x96", **FAST)
    assert np.asarray(Image.open(result.out / result.records[0].image)).shape == (64, 96, 3)


def test_progress_counts_up_to_the_end(tmp_path: Path, micro: Path, labels: Path) -> None:
    reported: list[tuple[str, float, float]] = []
    dgkit.generate(
        tmp_path / "out",
        labels=labels,
        model=str(micro),
        count=3,
        progress=lambda *report: reported.append(report),
        **FAST,
    )
    for stage, total in (("index", 4), ("generate", 3)):
        done = [report[1] for report in reported if report[0] == stage]
        assert done == sorted(done) and done[-1] == total
        assert {report[2] for report in reported if report[0] == stage} == {total}
    assert (
        len([report for report in reported if report[0] == "generate"]) > 8
    )  # within an image, too: a run must not look stuck


def test_a_config_and_settings_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="count"):
        dgkit.generate(tmp_path / "out", GenerateConfig(), count=3)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_suggests_a_smaller_batch(error: Exception) -> None:
    with pytest.raises(EngineError, match="out of memory with --batch 8") as caught, memory_errors(8):
        raise error
    assert "--batch 4" in caught.value.hint


def test_other_runtime_errors_are_not_translated() -> None:
    with pytest.raises(RuntimeError, match="a defect"), memory_errors(8):
        raise RuntimeError("a defect")


def test_real_maps_give_real_crops(tmp_path: Path, micro: Path, shared_folder: Path) -> None:
    source = shared_folder / "data" / "gta_labels"
    result = dgkit.generate(tmp_path / "out", labels=source, model=str(micro), count=4, style_mix="uniform", **FAST)
    assert len(result.styles) == 4
    for record in result.records:
        whole = read_label(source / f"{record.source}_labelTrainIds.png")
        assert np.array_equal(np.asarray(Image.open(result.out / record.label)), crop(whole, CropBox(*record.crop)))


@pytest.mark.slow
def test_another_engine_changes_pixels_within_rounding_only(
    result: dgkit.GenerateResult, labels: Path, micro: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'dgkit[cpu]'")
    settings = {"labels": labels, "model": str(micro), "count": 2, "style_mix": "uniform", **FAST}
    other = dgkit.generate(tmp_path / "out", **settings | {"engine": "ort"})
    for mine, theirs in zip(result.records[:2], other.records, strict=True):
        assert dataclasses.replace(mine, **ELSEWHERE) == dataclasses.replace(theirs, **ELSEWHERE)
        pixels = [np.asarray(Image.open(r.out / s.image)).astype(int) for r, s in ((result, mine), (other, theirs))]
        assert np.abs(pixels[0] - pixels[1]).max() <= PIXEL_BOUND
