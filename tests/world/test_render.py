"""Scenes: pure functions, the same geometry in every style, all classes often enough."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from dgkit.errors import UsageError
from dgkit.labels import CLASSES, PALETTE
from dgkit.prompts import STYLES
from dgkit.world import ROLES, Scene, render
from dgkit.world.canvas import Canvas
from dgkit.world.gbuffer import GBuffer, average
from dgkit.world.town import layout

FROZEN = ("source", "prior")
SMALL = {"height": 96, "width": 192}
RARE = ("wall", "traffic light", "rider", "truck", "bus", "train", "motorcycle", "bicycle")


@cache
def city(role: str, count: int) -> list[np.ndarray]:
    return [render(role, 3, i, **SMALL).label for i in range(count)]


def mean(scene: Scene, rows: slice) -> float:
    return float(scene.image[rows].mean())


def chroma(scene: Scene) -> float:
    return float(np.ptp(scene.image.astype(int), axis=2).mean())


@pytest.mark.parametrize("role", sorted(ROLES))
def test_same_arguments_same_scene(role: str) -> None:
    one, two = render(role, 5, 2, **SMALL), render(role, 5, 2, **SMALL)
    assert np.array_equal(one.image, two.image) and np.array_equal(one.label, two.label)
    assert (one.caption, one.style) == (two.caption, two.style)
    assert one.image.dtype == one.label.dtype == np.uint8
    assert one.image.shape == (96, 192, 3) and one.label.shape == (96, 192)


def test_role_seed_and_index_each_change_the_scene() -> None:
    labels = [
        render(r, s, i, **SMALL).label
        for r, s, i in (("source", 1, 1), ("prior", 1, 1), ("source", 2, 1), ("source", 1, 2))
    ]
    for i, a in enumerate(labels):
        for b in labels[i + 1 :]:
            assert (a != b).mean() > 0.05


@pytest.mark.parametrize("role", sorted(ROLES))
def test_style_changes_the_appearance_only(role: str) -> None:
    scenes = [render(role, 4, 1, style=style, **SMALL) for style in (*STYLES, "none")]
    for scene in scenes[1:]:
        assert np.array_equal(scene.label, scenes[0].label)
    for i, a in enumerate(scenes):
        for b in scenes[i + 1 :]:
            least = (
                6 if role in FROZEN or {a.style, b.style} != {"sunny", "none"} else 1
            )  # days in fair weather can be similar
            assert np.abs(a.image.astype(int) - b.image).mean() > least


def test_styles_match_their_words() -> None:
    top, bottom = slice(0, 16), slice(70, 96)
    for index in range(4):
        of = {style: render("prior", 9, index, style=style, **SMALL) for style in (*STYLES, "none")}
        for style in {*of} - {"night"}:
            assert of["night"].image.mean() < (0.9 if style == "rainy" else 0.7) * of[style].image.mean()
        assert mean(of["snowy"], bottom) > 1.15 * mean(of["rainy"], bottom)
        road = of["snowy"].label == 0
        assert of["snowy"].image[road].mean() > of["rainy"].image[road].mean() + 25
        assert chroma(of["foggy"]) < 0.6 * chroma(of["sunny"])
        sky = of["sunny"].label[top] == 10
        if sky.any():
            red, _, blue = of["sunny"].image[top][sky].mean(0)
            assert blue > red + 20


def test_source_exposure_spans_dusk_to_noon() -> None:
    levels = [render("source", 3, i, **SMALL).image.mean() for i in range(40)]
    assert min(levels) < 50 and max(levels) > 105


@pytest.mark.parametrize("role", FROZEN)
def test_every_class_occurs_often_enough(role: str) -> None:
    labels = city(role, 60)
    share = {name: sum((label == i).any() for label in labels) / 60 for i, name in enumerate(CLASSES)}
    assert min(share[name] for name in ("road", "sidewalk", "building", "sky", "car", "pole")) > 0.95
    assert {name: share[name] for name in RARE if share[name] < 0.1} == {}
    assert min(share.values()) >= 0.1
    assert 0.05 < sum((label == 255).sum() > 60 for label in labels) / 60 < 0.95
    assert set(np.unique(np.stack(labels))) == {*range(19), 255}


def test_half_of_the_source_and_little_of_the_prior_shows_a_bonnet() -> None:
    shares = {role: np.mean([(label[-1] == 255).mean() > 0.9 for label in city(role, 60)]) for role in FROZEN}
    assert 0.3 < shares["source"] < 0.7
    assert shares["prior"] < 0.3


def test_near_objects_are_large() -> None:
    tall = [
        max(np.ptp(np.nonzero(label == i)[0]) if (label == i).any() else 0 for i in (11, 13))
        for label in city("source", 60)
    ]
    assert np.mean(np.array(tall) >= 96 * 30 / 256) > 0.8


def test_another_size_is_the_same_scene() -> None:
    for index in range(6):
        small, large = render("source", 6, index, **SMALL), render("source", 6, index, height=192, width=384)
        agree = large.label[::2, ::2] == small.label
        assert agree.mean() > 0.93
        blurred = large.image.reshape(96, 2, 192, 2, 3).mean((1, 3))
        assert np.abs(blurred - small.image).mean() < 8


def test_label_edges_are_picture_edges() -> None:
    # Every surface gets the colour of its class, so the picture must equal the label, pixel for pixel.
    town = layout.compose(np.random.default_rng(1), ROLES["source"])
    canvas = Canvas(town.camera, 96, 192, oversample=1)
    layout.paint(town, canvas)
    colours = np.zeros((256, 4), np.uint8)
    colours[:19, :3], colours[255] = PALETTE, (1, 2, 3, 0)
    label = GBuffer(canvas, town.road).label
    assert len(np.unique(label)) > 10
    assert np.array_equal(average(canvas, colours[canvas.labels]), colours[label])


def test_captions_name_what_is_there() -> None:
    seen = set()
    for index in range(12):
        scene = render("prior", 8, index, **SMALL)
        base = " ".join(name for i, name in enumerate(CLASSES) if (scene.label == i).any())
        weather = f"A city street scene with {base}, in {scene.style} weather."
        assert scene.caption == (base if scene.style == "none" else weather)
        seen.add(scene.style)
    assert len(seen) >= 4
    assert all(render("source", 8, i, **SMALL).style == "none" for i in range(3))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"role": "target"}, "target"),
        ({"style": "windy"}, "windy"),
        ({"seed": -1}, "-1"),
        ({"height": 16}, "16"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, object], word: str) -> None:
    arguments: dict[str, object] = {"role": "source", "seed": 0, "index": 0, **SMALL, **change}
    with pytest.raises(UsageError, match=word):
        render(**arguments)  # type: ignore[arg-type]
