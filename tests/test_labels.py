"""The classes and the tables of id systems, against the values published with each data set."""

import numpy as np
import pytest

from dgkit.labels import (
    CLASSES,
    ENCODINGS,
    FORBIDDEN,
    IGNORE,
    MAPILLARY_NAMES,
    NUM_CLASSES,
    PALETTE,
    mapillary_by_name,
)

REAL = range(NUM_CLASSES)


def table(name: str) -> np.ndarray:
    return ENCODINGS[name].table


def test_nineteen_classes_with_nineteen_colours() -> None:
    assert len(CLASSES) == NUM_CLASSES == len(set(CLASSES)) == len(PALETTE)
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == NUM_CLASSES
    assert CLASSES[0] == "road" and CLASSES[13] == "car" and CLASSES[18] == "bicycle"


@pytest.mark.parametrize("name", ENCODINGS)
def test_tables_are_total_and_map_to_train_ids(name: str) -> None:
    values = table(name)
    assert values.shape == (256,) and values.dtype == np.int16
    assert set(values.tolist()) <= {*REAL, IGNORE, FORBIDDEN}
    assert values[IGNORE] == IGNORE
    assert not values.flags.writeable
    assert ENCODINGS[name].allowed == tuple(i for i in range(256) if values[i] != FORBIDDEN)


@pytest.mark.parametrize(
    ("name", "highest"),
    [("train_ids", 19), ("cityscapes_ids", 34), ("camvid", 11), ("synthia", 22), ("mapillary_a", 65)],
)
def test_allowed_ids_are_those_of_the_data_set(name: str, highest: int) -> None:
    assert ENCODINGS[name].allowed == (*range(highest + 1), IGNORE)


def test_train_ids_stay_and_19_is_ignore() -> None:
    assert table("train_ids")[:20].tolist() == [*REAL, IGNORE]


def test_cityscapes_ids() -> None:
    values = table("cityscapes_ids")
    assert values[[7, 8, 11, 23, 26, 31, 33]].tolist() == [0, 1, 2, 10, 13, 16, 18]
    assert (values[[*range(7), 9, 10, 14, 15, 16, 18, 29, 30, 34]] == IGNORE).all()


def test_synthia_ids_are_not_applied_twice() -> None:
    # 3 -> 0, 2 -> 2, 5 -> 4, 4 -> 1: a chain of in-place replacements would end elsewhere.
    assert table("synthia")[[3, 4, 2, 21, 5, 1, 22]].tolist() == [0, 1, 2, 3, 4, 10, IGNORE]


def test_camvid_ids() -> None:
    assert table("camvid")[:12].tolist() == [10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 18, IGNORE]


def test_mapillary_mapping_a() -> None:
    expected = {
        0: (13, 24, 41), 1: (2, 15), 2: (17,), 3: (6,), 4: (3,), 5: (45, 47), 6: (48,), 7: (50,), 8: (30,), 9: (29,),
        10: (27,), 11: (19,), 12: (20, 21, 22), 13: (55,), 14: (61,), 15: (54,), 16: (58,), 17: (57,), 18: (52,),
    }  # fmt: skip
    values = table("mapillary_a")
    assert {train: tuple(np.flatnonzero(values == train)) for train in REAL} == expected


def test_mapillary_mapping_b_by_name() -> None:
    values = table("mapillary_b")
    by_name = {name: int(values[i]) for i, name in enumerate(MAPILLARY_NAMES)}
    assert by_name["Road"] == 0
    assert {by_name[n] for n in ("Crosswalk - Plain", "Parking", "Bike Lane", "Service Lane")} == {0}
    assert {by_name[n] for n in MAPILLARY_NAMES if n.startswith("Lane Marking")} == {0}
    assert {by_name[n] for n in ("Curb", "Curb Cut", "Pedestrian Area", "Sidewalk")} == {1}
    assert {by_name[n] for n in ("Pole", "Utility Pole", "Street Light")} == {5}
    assert {by_name[n] for n in ("Traffic Sign Frame", "Traffic Sign (Back)", "Traffic Sign (Front)")} == {7}
    assert {by_name[n] for n in ("Bicyclist", "Motorcyclist", "Other Rider")} == {12}
    assert by_name["On Rails"] == 16 and by_name["Traffic Light"] == 6 and by_name["Motorcycle"] == 17
    assert {by_name[n] for n in ("Manhole", "Bird", "Rail Track", "Trailer", "Unlabeled", "Water")} == {IGNORE}


def test_the_mappings_of_mapillary_differ_where_their_authors_differ() -> None:
    a, b = table("mapillary_a")[:66], table("mapillary_b")[:66]
    differing = {MAPILLARY_NAMES[i] for i in np.flatnonzero(a != b)}
    assert differing == {
        "Bike Lane", "Crosswalk - Plain", "Curb Cut", "Parking", "Pedestrian Area", "Service Lane",
        "Lane Marking - Crosswalk", "Manhole", "Street Light", "Traffic Sign Frame", "Traffic Sign (Back)",
    }  # fmt: skip


def test_names_of_mapillary_v2_that_the_rules_would_match_wrongly() -> None:
    names = ["Traffic Light - Cyclists", "Parking Meter", "Signage - Back", "Traffic Sign - Back", "Parking Aisle"]
    assert mapillary_by_name(names)[:5].tolist() == [6, IGNORE, IGNORE, 7, 0]
    assert mapillary_by_name(names)[5] == FORBIDDEN
