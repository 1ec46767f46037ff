"""Caches of rendered scenes: complete, resumed and shared."""

import json
import pickle
import threading

import numpy as np
import pytest

from dgkit.errors import InputError, OutputError
from dgkit.training.data import rendered_scenes as scenes_module
from dgkit.training.data.rendered_scenes import SceneCounts, SceneSet, open_scenes, render_scenes
from dgkit.training.data.scene_feed import SceneFeed
from dgkit.world import render


def test_counts_are_scenes_at_two_zooms():
    assert SceneCounts(zoom1=3, zoom2=2).sets("prior", 5, 32) == [
        SceneSet("prior", 3, 5, 32),
        SceneSet("prior", 2, 6, 64),
    ]
    assert SceneCounts(zoom1=3, zoom2=0).sets("prior", 5, 32) == [SceneSet("prior", 3, 5, 32)]


def test_rendered_scenes_equal_those_of_the_city_and_reopen_in_another_process(tmp_path):
    cache = render_scenes(tmp_path, SceneSet("prior", 3, seed=5, height=32), workers=0)
    scene = render("prior", 5, 2, height=32, width=64)
    assert np.array_equal(cache.images[2], scene.image) and np.array_equal(cache.labels[2], scene.label)
    assert cache.captions[2] == scene.caption
    data = pickle.dumps(SceneFeed([cache], 32))
    assert len(data) < 2000  # the path is pickled, not the pixels
    again = pickle.loads(data)
    assert np.array_equal(
        again.draw(np.random.default_rng(0)).image, SceneFeed([cache], 32).draw(np.random.default_rng(0)).image
    )


def test_an_interrupted_rendering_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes_module, "CHUNK", 2)
    drawn = []

    def interrupted(role, seed, index, **size):
        drawn.append(index)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return render(role, seed, index, **size)

    monkeypatch.setattr(scenes_module, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        render_scenes(tmp_path / "a", SceneSet("source", 5, 0, 32), 0)
    assert len(json.loads((tmp_path / "a" / "captions.json").read_text())) == 2
    cache = render_scenes(tmp_path / "a", SceneSet("source", 5, 0, 32), 0)
    assert drawn == [0, 1, 2, 3, 2, 3, 4]
    whole = render_scenes(tmp_path / "b", SceneSet("source", 5, 0, 32), 0)
    assert np.array_equal(cache.images, whole.images) and np.array_equal(cache.labels, whole.labels)
    assert cache.captions == whole.captions


def test_two_trainings_render_every_scene_once(tmp_path, monkeypatch):
    drawn = []

    def counted(*args, **size):
        drawn.append(args[2])
        return render(*args, **size)

    monkeypatch.setattr(scenes_module, "render", counted)
    threads = [
        threading.Thread(target=render_scenes, args=(tmp_path, SceneSet("source", 3, 0, 32), 0)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn == [0, 1, 2]


def test_other_settings_render_again(tmp_path):
    render_scenes(tmp_path, SceneSet("source", 2, 0, 32), 0)
    assert np.array_equal(
        render_scenes(tmp_path, SceneSet("source", 2, 1, 32), 0).images[0],
        render("source", 1, 0, height=32, width=64).image,
    )
    assert len(open_scenes(tmp_path)) == 2


def test_a_full_disk_is_found_before_anything_is_rendered(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scenes_module.os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="disk is full"):
        render_scenes(tmp_path, SceneSet("source", 2, 0, 32), 0)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "captions.json"])
def test_damaged_scenes_are_named(tmp_path, name):
    scenes = SceneSet("prior", 2, 0, 32)
    render_scenes(tmp_path, scenes, 0)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=rf"are damaged: {name} differs from the SHA-256") as caught:
        render_scenes(tmp_path, scenes, 0)
    assert caught.value.hint == f"delete {tmp_path} to render them again"
    path.write_bytes(b"")
    with pytest.raises(InputError, match=rf"{name} has 0 bytes"):
        render_scenes(tmp_path, scenes, 0)


def test_scenes_of_an_earlier_version_get_digests(tmp_path, monkeypatch):
    scenes = SceneSet("prior", 2, 0, 32)
    render_scenes(tmp_path, scenes, 0)
    digests = (tmp_path / "digests.json").read_bytes()
    (tmp_path / "digests.json").unlink()
    monkeypatch.setattr(scenes_module, "render", None)
    render_scenes(tmp_path, scenes, 0)
    assert (tmp_path / "digests.json").read_bytes() == digests


@pytest.mark.parametrize("text", ["", "7", "[" * 100_000, "[1, 2]"])
def test_unfinished_scenes_with_damaged_files_are_rendered_again(tmp_path, text):
    scenes = SceneSet("prior", 2, 0, 32)
    whole = render_scenes(tmp_path / "whole", scenes, 0)
    render_scenes(tmp_path / "cut", scenes, 0)
    (tmp_path / "cut" / "digests.json").unlink()
    (tmp_path / "cut" / "captions.json").write_text(text)
    (tmp_path / "cut" / "images.npy").write_bytes(b"\x93NUMPY")
    assert np.array_equal(render_scenes(tmp_path / "cut", scenes, 0).images, whole.images)
