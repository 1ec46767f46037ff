"""The five target roles: all classes, the weather of their data sets, no setting shared with the training roles."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

import numpy as np
import pytest

from dgkit.world import ROLES, render
from dgkit.world.canvas import Canvas
from dgkit.world.gbuffer import GBuffer
from dgkit.world.light import shading, target_climates
from dgkit.world.light.climate import draw_appearance
from dgkit.world.render import style_of
from dgkit.world.target_roles import TARGETS
from dgkit.world.things.cars import PROFILES
from dgkit.world.things.target_furniture import LAMPS, SIGNS
from dgkit.world.town import layout

SMALL = {"height": 96, "width": 192}
CLASSES_AND_IGNORE = {*range(19), 255}


def styles(role: str, count: int) -> Counter[str]:
    return Counter(style_of(role, 3, index) for index in range(count))


@pytest.mark.parametrize("role", sorted(TARGETS))
def test_all_classes_occur_within_sixty_scenes(role: str) -> None:
    seen: set[int] = set()
    for index in range(60):
        seen |= set(np.unique(render(role, 3, index, **SMALL).label).tolist())
        if seen == CLASSES_AND_IGNORE:
            break
    assert seen == CLASSES_AND_IGNORE


def test_weather_of_the_sets() -> None:
    assert [style_of("acdc", 0, i) for i in range(4)] == ["foggy", "night", "rainy", "snowy"]
    assert set(styles("acdc", 40).values()) == {10}
    assert set(styles("darkzurich", 20)) == {"night"}
    assert set(styles("cityscapes", 60)) == {"none", "sunny"}
    mixed = styles("bdd", 400)
    assert set(mixed) == {"none", "sunny", "night", "rainy", "snowy", "foggy"}
    assert 0.12 < mixed["night"] / 400 < 0.28
    assert styles("mapillary", 400)["none"] > 200


@pytest.mark.parametrize("role", sorted(TARGETS))
def test_style_of_returns_the_style_of_the_scene(role: str) -> None:
    assert render(role, 3, 5, height=32, width=64).style == style_of(role, 3, 5)


def test_targets_share_no_setting_with_the_trained_roles_or_each_other() -> None:
    trained = {palette for role in ("source", "prior") for palette in ROLES[role].palettes}
    for name, target in TARGETS.items():
        others = [other for key, other in ROLES.items() if key != name]
        assert not trained & set(target.palettes)
        for field in ("palettes", "cars", "clothes", "view", "plan", "traffic", "furniture", "climate"):
            assert all(getattr(target, field) != getattr(other, field) for other in others), field


def test_roles_name_objects_that_exist() -> None:
    for target in TARGETS.values():
        assert target.furniture is not None and target.climate is not None and target.labelled
        assert set(target.furniture.signs) <= set(SIGNS) and set(target.furniture.lamps) <= set(LAMPS)
        assert set(target.traffic.kinds) <= set(PROFILES)
        assert sum(share for _, share in target.styles) == pytest.approx(1.0)
        assert {field.name for field in fields(target)} >= {"view", "plan"}


@pytest.mark.parametrize("role", ["acdc", "darkzurich"])
def test_nights_are_dark_but_readable(role: str) -> None:
    for index in (1, 5, 9):
        scene = render(role, 3, index, style="night", **SMALL)
        grey = scene.image.mean(2)
        assert 14 < grey.mean() < 90
        road, sky = grey[scene.label == 0], grey[scene.label == 10]
        assert road.mean() > 14
        assert len(sky) < 50 or abs(np.median(road) - np.median(sky)) > 3


def test_fog_hides_distant_objects() -> None:
    town = layout.compose(np.random.default_rng(4), ROLES["acdc"])
    canvas = Canvas(town.camera, 96, 192)
    layout.paint(town, canvas)
    buffers = GBuffer(canvas, town.road)
    far = (buffers.depth > 45) & (buffers.label != 10)
    assert far.sum() > 200
    spread = {}
    for style in ("none", "foggy"):
        appearance = draw_appearance(np.random.default_rng(1), target_climates.ACDC, style)
        spread[style] = shading.shade(buffers, appearance).mean(2)[far].std()
    assert spread["foggy"] < 0.7 * spread["none"]


def test_every_cityscapes_picture_shows_the_bonnet() -> None:
    for index in range(6):
        assert (render("cityscapes", 3, index, **SMALL).label[-1] == 255).mean() > 0.9


def test_a_crossing_street_ends_at_a_kerb_not_at_the_sky() -> None:
    below = 0
    for index in range(25):
        label = render("cityscapes", 3, index, **SMALL).label
        ground = np.isin(label, (0, 1, 9))
        above, under = np.zeros_like(ground), np.zeros_like(ground)
        above[1:] = np.logical_or.accumulate(ground, 0)[:-1]
        under[:-1] = np.logical_or.accumulate(ground[::-1], 0)[::-1][1:]
        below += int(((label == 10) & above & under).sum())
    assert below == 0
