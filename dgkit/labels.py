"""The 19 Cityscapes classes, their palette, and the tables that turn other id systems into train ids.

Train ids are 0..18 and 255 (ignore). A table is applied exactly once, when a label map is read
(:func:`dgkit.data.labelmap.read_label`); all other code handles train ids only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CLASSES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
NUM_CLASSES = len(CLASSES)
IGNORE = 255
CONDITION_CHANNELS = NUM_CLASSES + 1  # channel 19 of the one-hot condition is "ignore"

PALETTE = np.array(
    [
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    ],
    dtype=np.uint8,
)  # uint8 [19, 3], RGB
PALETTE.setflags(write=False)

FORBIDDEN = -1  # table entry of an id that does not exist in an id system


@dataclass(frozen=True)
class Encoding:
    """An id system.

    ``table`` is int16 [256]: id in the file -> train id, 255 (ignore) or :data:`FORBIDDEN`. ``datasets`` names the data
    set layouts whose files hold these ids. ``channel`` is the channel (R, G, B order) with the ids in files of several
    channels; None means that only single-channel files are label maps. ``colours`` maps RGB values to train ids, for
    files that hold colours, whose ``table`` is that of train ids.
    """

    name: str
    table: np.ndarray
    description: str
    datasets: tuple[str, ...] = ()
    channel: int | None = None
    colours: Mapping[tuple[int, int, int], int] | None = None

    @property
    def allowed(self) -> tuple[int, ...]:
        """Ids that a file may hold, ascending."""
        return tuple(int(i) for i in np.flatnonzero(self.table != FORBIDDEN))


def id_table(pairs: Mapping[int, int], ignored: Sequence[int] = ()) -> np.ndarray:
    """Return the table of an id system, int16 [256]: class numbers by id, 255 for those of ``ignored`` and 255 itself.

    Other ids are :data:`FORBIDDEN`.
    """
    table = np.full(256, FORBIDDEN, dtype=np.int16)
    table[list(ignored)] = IGNORE
    table[IGNORE] = IGNORE
    for source, train_id in pairs.items():
        table[source] = train_id
    table.setflags(write=False)
    return table


_CITYSCAPES = dict(
    zip(
        (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
        range(NUM_CLASSES),
        strict=True,
    )
)

# SYNTHIA-RAND-CITYSCAPES, the conversion of HRDA, tools/convert_datasets/synthia.py. Void, parking slots, road works
# and lane markings (0, 13, 14, 22) have no train id.
_SYNTHIA = {
    3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9,
    1: 10, 10: 11, 17: 12, 8: 13, 18: 14, 19: 15, 20: 16, 12: 17, 11: 18,
}  # fmt: skip

# CamVid in its 11-class release: name and colour of each id, and its train id. "bicyclist" covers rider and bicycle and
# counts as bicycle.
CAMVID_CLASSES = {
    ("sky", (128, 128, 128)): 10,
    ("building", (128, 0, 0)): 2,
    ("pole", (192, 192, 128)): 5,
    ("road", (128, 64, 128)): 0,
    ("pavement", (60, 40, 222)): 1,
    ("tree", (128, 128, 0)): 8,
    ("sign", (192, 128, 128)): 7,
    ("fence", (64, 64, 128)): 4,
    ("car", (64, 0, 128)): 13,
    ("pedestrian", (64, 64, 0)): 11,
    ("bicyclist", (0, 128, 192)): 18,
}
_CAMVID = dict(enumerate(CAMVID_CLASSES.values()))

# Mapillary Vistas v1.2 -> train ids as RobustNet, HRDA and DGInStyle do it ("mapping A").
_MAPILLARY_A = {
    13: 0, 24: 0, 41: 0, 2: 1, 15: 1, 17: 2, 6: 3, 3: 4, 45: 5, 47: 5, 48: 6, 50: 7, 30: 8, 29: 9, 27: 10,
    19: 11, 20: 12, 21: 12, 22: 12, 55: 13, 61: 14, 54: 15, 58: 16, 57: 17, 52: 18,
}  # fmt: skip

# Names of Mapillary Vistas v1.2 in id order ("readable" in its config.json).
MAPILLARY_NAMES = (
    "Bird", "Ground Animal", "Curb", "Fence", "Guard Rail", "Barrier", "Wall", "Bike Lane", "Crosswalk - Plain",
    "Curb Cut", "Parking", "Pedestrian Area", "Rail Track", "Road", "Service Lane", "Sidewalk", "Bridge", "Building",
    "Tunnel", "Person", "Bicyclist", "Motorcyclist", "Other Rider", "Lane Marking - Crosswalk",
    "Lane Marking - General", "Mountain", "Sand", "Sky", "Snow", "Terrain", "Vegetation", "Water", "Banner", "Bench",
    "Bike Rack", "Billboard", "Catch Basin", "CCTV Camera", "Fire Hydrant", "Junction Box", "Mailbox", "Manhole",
    "Phone Booth", "Pothole", "Street Light", "Pole", "Traffic Sign Frame", "Utility Pole", "Traffic Light",
    "Traffic Sign (Back)", "Traffic Sign (Front)", "Trash Can", "Bicycle", "Boat", "Bus", "Car", "Caravan",
    "Motorcycle", "On Rails", "Other Vehicle", "Trailer", "Truck", "Wheeled Slow", "Car Mount", "Ego Vehicle",
    "Unlabeled",
)  # fmt: skip

# Rules of mapping B on lower-case names without spaces and hyphens; the first match wins.
_MAPILLARY_B = (
    (("trafficsign", "front", "back"), "traffic sign"),
    (("onrail",), "train"),
    (("cyclist", "rider"), "rider"),
    (("pole", "streetlight"), "pole"),
    (("curb", "pedestrianarea"), "sidewalk"),
    (("crosswalkplain", "parking", "bikelane", "servicelane", "lanemarking"), "road"),
)


def mapillary_by_name(names: Sequence[str]) -> np.ndarray:
    """Return the table of "mapping B" of Mapillary Vistas from the names in its config, in id order.

    The rules are those of the openseg family (its Mapillary data set generator): a name equal to a Cityscapes class,
    else the first matching part. Some names of version 2.0 would match wrongly, so three rules precede these; none of
    the names exists in v1.2: every "Traffic Light - ..." is a traffic light (one is for cyclists), a "Parking Meter" is
    not road, and "Signage - ..." is not a traffic sign.

    Returns int16 [256]: train id, 255 (ignore), or :data:`FORBIDDEN` for ids beyond ``names``.
    """
    exact = {name.replace(" ", ""): train_id for train_id, name in enumerate(CLASSES)}
    pairs: dict[int, int] = {}
    for source, name in enumerate(names):
        key = name.lower().replace(" ", "").replace("-", "")
        if key in exact:
            pairs[source] = exact[key]
        elif key.startswith("trafficlight"):
            pairs[source] = CLASSES.index("traffic light")
        elif not key.startswith(("parkingmeter", "signage")):
            match = next((target for parts, target in _MAPILLARY_B if any(part in key for part in parts)), None)
            if match is not None:
                pairs[source] = CLASSES.index(match)
    return id_table(pairs, range(len(names)))


ENCODINGS = {
    encoding.name: encoding
    for encoding in (
        # Data sets made with the published DGInStyle code hold 19 instead of 255, so both are ignore.
        Encoding(
            "train_ids",
            id_table({i: i for i in range(NUM_CLASSES)}, (19,)),
            "Cityscapes train ids 0..18",
            ("dgkit", "bdd100k"),
        ),
        Encoding(
            "cityscapes_ids",
            id_table(_CITYSCAPES, range(35)),
            "Cityscapes and GTA5 labelIds 0..34",
            ("gta", "cityscapes"),
        ),
        Encoding("camvid", id_table(_CAMVID, range(12)), "CamVid ids 0..11 (11 classes and void)", ("camvid",)),
        Encoding("synthia", id_table(_SYNTHIA, range(23)), "SYNTHIA ids 0..22", ("synthia",), channel=0),
        Encoding(
            "mapillary_a",
            id_table(_MAPILLARY_A, range(len(MAPILLARY_NAMES))),
            "Mapillary Vistas v1.2 ids 0..65, mapping A (RobustNet, HRDA, DGInStyle)",
            ("mapillary",),
        ),
        Encoding(
            "mapillary_b",
            mapillary_by_name(MAPILLARY_NAMES),
            "Mapillary Vistas v1.2 ids 0..65, mapping B (by name)",
            ("mapillary_b",),
        ),
    )
}
