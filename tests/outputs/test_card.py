"""The dataset card, and what `datasets` and mmsegmentation need to read a folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dgkit.data.generated import open_generated
from dgkit.data.labelmap import read_label
from dgkit.labels import CLASSES
from dgkit.outputs.card import card_text, write_card
from dgkit.outputs.class_pixels import count_classes
from dgkit.outputs.summary import summarise
from tests.generated import HEIGHT, WIDTH, make_generated, make_image, make_job
from tests.scenes import snapshot

SOURCE_PIXELS = [1000 * (i + 1) for i in range(19)]


@pytest.fixture(scope="module")
def carded(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("carded") / "scenes"
    shutil.copytree(generated, out)
    write_card(out, source_pixels=SOURCE_PIXELS)
    return out


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_the_card_describes_the_folder(carded: Path) -> None:
    text = (carded / "README.md").read_text()
    assert "# 7 labelled street scenes" in text and "Images of 128 x 96 pixels" in text
    assert "| snowy | 2 |" in text and "the model that dgkit ships" in text
    pixels = count_classes(open_generated(carded))
    share = pixels.totals[0] / sum(pixels.totals)
    assert f"| road | {share:.3%} | {1000 / sum(SOURCE_PIXELS):.3%} | 7 | 0 |" in text
    assert f"| car | {pixels.totals[13] / sum(pixels.totals):.3%} |" in text
    front = front_matter(carded)
    assert front["license"] == "apache-2.0" and front["size_categories"] == ["n<1K"]


def test_figures_for_programs(carded: Path) -> None:
    found = json.loads((carded / "dataset.json").read_text())
    assert (found["images"], found["height"], found["width"]) == (7, HEIGHT, WIDTH)
    assert [entry["name"] for entry in found["classes"]] == list(CLASSES)
    assert [entry["source_pixels"] for entry in found["classes"]] == SOURCE_PIXELS


def test_writing_again_changes_nothing_and_remembers_the_source(carded: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in carded.iterdir()}
    write_card(carded)  # this time without source pixels
    assert {path: path.stat().st_mtime_ns for path in carded.iterdir()} == before


def test_the_files_do_not_depend_on_the_place(generated: Path, carded: Path, tmp_path: Path) -> None:
    shutil.copytree(generated, tmp_path / "elsewhere")
    write_card(tmp_path / "elsewhere", source_pixels=SOURCE_PIXELS)
    assert snapshot(tmp_path / "elsewhere") == snapshot(carded)


def test_the_source_of_other_label_maps_is_forgotten(tmp_path: Path) -> None:
    out = make_generated(tmp_path / "out", 2)
    write_card(out, source_pixels=SOURCE_PIXELS)
    config = (out / "config.yaml").read_text()
    assert "s" * 64 in config
    (out / "config.yaml").write_text(config.replace("s" * 64, "t" * 64))
    assert write_card(out).source_pixels is None


def test_a_readme_of_the_user_stays(tmp_path: Path) -> None:
    out = make_generated(tmp_path / "out", 1)
    (out / "README.md").write_text("# mine\n")
    write_card(out)
    assert (out / "README.md").read_text() == "# mine\n" and (out / "dataset.json").is_file()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "/data/models/dginstyle"}, "output of a model (dginstyle)"),
        ({"world": None, "dataset": "gta=/data/gta5"}, "(data set gta, folder gta5)"),
    ],
)
def test_the_licence_of_others_is_left_to_the_user(generated: Path, changes: dict, words: str) -> None:
    folder = open_generated(generated)
    folder.settings.update(changes)
    summary = summarise(folder, count_classes(folder))
    text = card_text(summary, "generated")
    assert summary.licence is None and "license: other" in text and words in text
    assert "/data" not in text


def test_mmsegmentation_config_names_existing_pairs(carded: Path) -> None:
    text = (carded / "mmseg_dataset.py").read_text()
    assert "{{ fileDirname }}" in text
    names: dict = {}
    exec(text.replace("{{ fileDirname }}", str(carded)), names)
    dataset = names["train_dataloader"]["dataset"]
    root = Path(dataset["data_root"])
    images = sorted((root / dataset["data_prefix"]["img_path"]).glob(f"*{dataset['img_suffix']}"))
    assert len(images) == 7
    for image in images:
        stem = image.name.removesuffix(dataset["img_suffix"])
        label = root / dataset["data_prefix"]["seg_map_path"] / f"{stem}{dataset['seg_map_suffix']}"
        assert np.array_equal(read_label(label), make_job(int(stem[:6])).label)
    assert tuple(dataset["metainfo"]["classes"]) == CLASSES and len(dataset["metainfo"]["palette"]) == 19


@pytest.mark.filterwarnings("default")  # mmsegmentation's own
def test_mmsegmentation_builds_the_data_set(carded: Path) -> None:
    pytest.importorskip("mmseg", reason="needs mmsegmentation: pip install 'dgkit[seg]'")
    from mmengine.config import Config
    from mmseg.registry import DATASETS
    from mmseg.utils import register_all_modules

    register_all_modules()
    user = carded.parent / "config.py"
    user.write_text(f'_base_ = ["{carded.name}/mmseg_dataset.py"]\n')
    dataset = DATASETS.build(Config.fromfile(user).train_dataloader.dataset)
    assert len(dataset) == 7
    sample = dataset[0]
    assert tuple(sample["inputs"].shape) == (3, HEIGHT, WIDTH)
    label = sample["data_samples"].gt_sem_seg.data[0].numpy()
    whole = make_job(0).label
    assert np.array_equal(label, whole) or np.array_equal(label, whole[:, ::-1])  # it may be mirrored


def test_datasets_loads_the_folder(carded: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install 'dgkit[dev]'")
    scenes = datasets.load_dataset(str(carded), split="train", cache_dir=str(tmp_path))
    assert len(scenes) == 7 and {"image", "label", "style", "class", "prompt"} <= set(scenes.column_names)
    for index, scene in enumerate(scenes):
        job = make_job(index)
        assert (scene["id"], scene["style"], scene["class"], scene["seed"]) == (
            job.id, job.style, job.class_name, job.seed,
        )  # fmt: skip
        assert isinstance(scene["label"], Image.Image) and np.array_equal(np.asarray(scene["label"]), job.label)
        assert np.array_equal(np.asarray(scene["image"]), make_image(index))
