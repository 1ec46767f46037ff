"""Generating with a model of other classes: labels, prompts, colours, settings, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import dgkit
from dgkit.cli.app import main
from dgkit.data.generated import list_scenes, open_generated
from dgkit.diffusion.calibration import scene_request
from dgkit.diffusion.hub import find_controlnet
from dgkit.diffusion.loading import load_pipeline, open_model
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.diffusion.pipeline import one_hot
from dgkit.diffusion.style_swap import swap
from dgkit.errors import InputError, LabelError, ModelError
from dgkit.generation.merging import merge
from dgkit.generation.run import generate
from dgkit.taxonomies import CAMVID11, find_taxonomy
from tests.generated import make_generated
from tests.models import make_micro_model

FAST = {"preset": "one-pass:steps=1", "engine": "torch", "dtype": "fp32", "batch": 2, "workers": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_micro_model(tmp_path_factory.mktemp("camvid") / "model", taxonomy="camvid11")


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    label = np.repeat(np.repeat(np.array([[0, 5, 1], [8, 10, 11], [3, 3, 4]], np.uint8), 32, 0), 32, 1)
    (folder / "trainannot").mkdir()
    Image.fromarray(label).save(folder / "trainannot" / "a.png")
    return folder


@pytest.fixture(scope="module")
def scenes(model: Path, maps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "scenes"
    generate(out, dataset=f"camvid={maps}", model=str(model), count=2, **FAST)
    return out


def test_labels_are_those_of_the_maps(scenes: Path, maps: Path) -> None:
    source = np.array(Image.open(maps / "trainannot" / "a.png"))
    source[source == 11] = 255
    for scene in list_scenes(scenes):
        assert scene.taxonomy is CAMVID11 and scene.crop is not None
        x, y, width, height = scene.crop
        assert (scene.read().label == source[y : y + height, x : x + width]).all()


def test_what_is_written(scenes: Path) -> None:
    folder = open_generated(scenes)
    assert folder.settings["taxonomy"] == "camvid11" and folder.taxonomy is CAMVID11
    for record in folder.records:
        names = [CAMVID11.names[i] for i in np.unique(list_scenes(scenes)[record["index"]].read().label) if i < 11]
        assert record["class"] in names
        words = [CAMVID11.prompt_names[CAMVID11.names.index(name)] for name in names]
        assert all(word in record["prompt"] for word in words)
        vis, label = (np.array(Image.open(scenes / record[key])) for key in ("vis", "label"))
        width = label.shape[1]
        assert (vis[:, width : 2 * width] == CAMVID11.colours[label]).all()
    assert main(["verify", str(scenes)]) == 0


def test_a_resumed_run_takes_the_classes_of_the_folder(scenes: Path) -> None:
    assert generate(scenes).written == 0
    assert generate(scenes, taxonomy="camvid11").written == 0


def test_other_classes_are_refused(model: Path, maps: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be used with the classes of camvid11: camvid11 has 11 classes") as e:
        generate(tmp_path / "a", world=1, taxonomy="camvid11", **FAST)
    assert "only camvid11 has pavement" in str(e.value) and not (tmp_path / "a").exists()
    with pytest.raises(LabelError, match=r"label has ids \[12\]; allowed: train ids 0 to 10, and 255"):
        request = dgkit.SceneRequest(np.full((64, 64), 12, np.uint8), "road")
        with load_pipeline(model) as pipeline:
            dgkit.sample(pipeline, [request], "one-pass:steps=1")


def test_folders_of_other_classes_are_not_mixed(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be used with the classes of camvid11"):
        generate(scenes, model=str(make_micro_model(tmp_path / "city")))
    parts = [make_generated(tmp_path / "a", 1), make_generated(tmp_path / "b", 1, taxonomy=CAMVID11)]
    with pytest.raises(InputError, match=r"made with different settings .taxonomy: None -> camvid11"):
        merge(tmp_path / "whole", parts)


def test_the_city_is_converted(model: Path, tmp_path: Path) -> None:
    generate(tmp_path / "city", model=str(model), world=2, count=1, **FAST)
    label = list_scenes(tmp_path / "city")[0].read().label
    assert set(np.unique(label)) <= {*range(11), 255}


def test_channels_that_do_not_fit(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "bare"
    make_micro_model(bare, taxonomy="camvid11")
    (bare / "controlnet" / "dgkit.json").unlink()
    with pytest.raises(ModelError, match="has 12 condition channels; expected 20: the 19 classes of cityscapes19") as e:
        open_model(bare)
    assert "--taxonomy FILE.yaml" in e.value.hint
    prior = make_micro_model(tmp_path / "prior", with_controlnet=False)
    arguments = ["swap", str(prior), str(bare / "controlnet"), str(tmp_path / "joined")]
    assert main(arguments) == 1
    assert main([*arguments, "--taxonomy", "camvid11"]) == 0
    assert open_model(tmp_path / "joined").info.taxonomy is CAMVID11
    assert main([*arguments, "--taxonomy", "camvid11"]) == 0  # there already
    city = make_micro_model(tmp_path / "city")
    with pytest.raises(ModelError, match="has 20 condition channels; expected 12"):
        swap(prior, city / "controlnet", tmp_path / "no", CAMVID11)
    with pytest.raises(InputError, match="cannot be used with the classes of yard"):
        own = find_taxonomy({"name": "yard", "classes": [{"name": "a", "colour": [1, 1, 1]}]})
        swap(prior, model / "controlnet", tmp_path / "no", own)
    assert not (tmp_path / "no").exists()


def test_a_swapped_folder_keeps_its_classes(model: Path, tmp_path: Path) -> None:
    prior = make_micro_model(tmp_path / "prior", with_controlnet=False)
    report = swap(prior, find_controlnet(model), tmp_path / "joined")
    joined = ModelFolder(report.out)
    assert joined.info.taxonomy is CAMVID11 and joined.info.symbol_sizes()["classes"] == 12
    plain = make_micro_model(tmp_path / "plain")
    assert not (swap(prior, plain / "controlnet", tmp_path / "usual").out / "controlnet" / "dgkit.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"taxonomy": "kitti"}, "unknown taxonomy 'kitti'"),
        ({"taxonomy": {"name": "a"}}, "no list 'classes'"),
        ({"classes": 3}, "unknown key 'classes'"),
    ],
)
def test_a_damaged_statement(model: Path, tmp_path: Path, content: dict[str, object], message: str) -> None:
    folder = make_micro_model(tmp_path / "m", taxonomy="camvid11")
    (folder / "controlnet" / "dgkit.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        open_model(folder)


def test_calibration_for_int8_uses_their_classes(model: Path) -> None:
    request = scene_request(open_model(model).info, 0)
    assert set(np.unique(request.label)) <= {*range(11), 255} and "weather" in request.prompt


def test_stats_take_the_classes_of_the_model(model: Path, maps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "--dataset", f"camvid={maps}", "--model", str(model), "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["classes"]] == list(CAMVID11.names)


def test_one_hot_of_other_classes() -> None:
    import torch

    found = one_hot(torch.tensor([[[0, 10, 11, 255]]], dtype=torch.uint8), 12)
    assert found.argmax(1).tolist() == [[[0, 10, 11, 11]]] and found.shape[1] == 12 and found.sum() == 4


def test_an_own_file(model: Path, tmp_path: Path) -> None:
    taxonomy = {"name": "yard", "classes": [{"name": f"thing {i}", "colour": [i + 1, 9, 9]} for i in range(11)]}
    (tmp_path / "yard.yaml").write_text(yaml.safe_dump(taxonomy), encoding="utf-8")
    folder = make_micro_model(tmp_path / "m", taxonomy=str(tmp_path / "yard.yaml"))
    label = np.repeat(np.repeat(np.arange(4, dtype=np.uint8).reshape(2, 2), 40, 0), 40, 1)
    generate(tmp_path / "out", labels=[label], model=str(folder), count=1, **FAST)
    (tmp_path / "yard.yaml").unlink()  # the folder states all of it
    found = open_generated(tmp_path / "out")
    assert found.taxonomy == find_taxonomy(taxonomy) and "thing 1" in found.records[0]["prompt"]
