"""The scatter plot places points in order, and is valid with few of them."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from dgkit.bench.scatter import Point, scatter

SVG = "{http://www.w3.org/2000/svg}"


def test_positions_follow_the_values() -> None:
    points = [Point(10, 1.0, "a <b>"), Point(100, 3.0, "c", strong=True), Point(1000, 2.0, "d")]
    root = ElementTree.fromstring(scatter([("x & y", points), ("again", points[:2])]))
    circles = list(root.iter(f"{SVG}circle"))
    x, y = ([float(circle.get(axis, 0)) for circle in circles] for axis in ("cx", "cy"))
    assert len(circles) == 5 and x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)  # equal factors are equal distances
    assert y[0] > y[2] > y[1]  # SVG counts from above
    assert x[3:] == x[:2] and min(y[3:]) > max(y[:3])
    assert len({circle.get("fill") for circle in circles[:3]}) == 2
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"x & y", "again", "a <b>", "c", "d"} <= set(texts)
    assert max(x) < float(root.get("width", 0)) and max(y) < float(root.get("height", 0))


def test_few_points_give_a_valid_picture() -> None:
    for points in ([], [Point(5, 1.0, "one")]):
        root = ElementTree.fromstring(scatter([("title", points)]))
        assert len(list(root.iter(f"{SVG}circle"))) == len(points)
