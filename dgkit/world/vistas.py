"""Mapillary Vistas v1.2 on disk: class ids, colours, and the config file that lists them."""

import json

import numpy as np

from dgkit.labels import MAPILLARY_NAMES

UNLABELLED = 65
# The id written for each train id: the one whose name fits best and that mappings A and B both read back.
IDS = (13, 15, 17, 6, 3, 45, 48, 50, 30, 29, 27, 19, 20, 55, 61, 54, 58, 57, 52)

# (group, number of consecutive ids); the rest of a name is its readable form in lower case.
_GROUPS = (
    ("animal", 2), ("construction--barrier", 5), ("construction--flat", 9), ("construction--structure", 3),
    ("human", 1), ("human--rider", 3), ("marking", 2), ("nature", 7), ("object", 13), ("object--support", 3),
    ("object", 1), ("object--traffic-sign", 2), ("object", 1), ("object--vehicle", 11), ("void", 3),
)  # fmt: skip
_RENAMED = {
    "Barrier": "other-barrier", "Lane Marking - Crosswalk": "crosswalk-zebra", "Lane Marking - General": "general",
    "Crosswalk - Plain": "crosswalk-plain", "Traffic Sign (Back)": "back", "Traffic Sign (Front)": "front",
}  # fmt: skip
_COLOURS = (
    (165, 42, 42), (0, 192, 0), (196, 196, 196), (190, 153, 153), (180, 165, 180), (90, 120, 150), (102, 102, 156),
    (128, 64, 255), (140, 140, 200), (170, 170, 170), (250, 170, 160), (96, 96, 96), (230, 150, 140), (128, 64, 128),
    (110, 110, 110), (244, 35, 232), (150, 100, 100), (70, 70, 70), (150, 120, 90), (220, 20, 60), (255, 0, 0),
    (255, 0, 100), (255, 0, 200), (200, 128, 128), (255, 255, 255), (64, 170, 64), (230, 160, 50), (70, 130, 180),
    (190, 255, 255), (152, 251, 152), (107, 142, 35), (0, 170, 30), (255, 255, 128), (250, 0, 30), (100, 140, 180),
    (220, 220, 220), (220, 128, 128), (222, 40, 40), (100, 170, 30), (40, 40, 40), (33, 33, 33), (100, 128, 160),
    (142, 0, 0), (70, 100, 150), (210, 170, 100), (153, 153, 153), (128, 128, 128), (0, 0, 80), (250, 170, 30),
    (192, 192, 192), (220, 220, 0), (140, 140, 20), (119, 11, 32), (150, 0, 255), (0, 60, 100), (0, 0, 142), (0, 0, 90),
    (0, 0, 230), (0, 80, 100), (128, 64, 64), (0, 0, 110), (0, 0, 70), (0, 0, 192), (32, 32, 32), (120, 10, 10),
    (0, 0, 0),
)  # fmt: skip


def table() -> np.ndarray:
    """Return uint8 [256]: train id or 255 -> id in the file."""
    out = np.full(256, UNLABELLED, np.uint8)
    out[: len(IDS)] = IDS
    return out


def palette() -> np.ndarray:
    """Return uint8 [256, 3]: the colour of every id; unused ones are black."""
    out = np.zeros((256, 3), np.uint8)
    out[: len(_COLOURS)] = _COLOURS
    return out


def config() -> bytes:
    """Return ``config.json`` in the public format: one entry per id, with name, readable name and colour."""
    groups = [group for group, count in _GROUPS for _ in range(count)]
    labels = [
        {
            "name": f"{group}--{_RENAMED.get(readable, readable.lower().replace(' ', '-'))}",
            "readable": readable,
            "color": list(colour),
            "instances": group.startswith(("human", "object", "animal")),
            "evaluate": group != "void",
        }
        for group, readable, colour in zip(groups, MAPILLARY_NAMES, _COLOURS, strict=True)
    ]
    return (json.dumps({"version": "1.2", "mapping": "public", "labels": labels}, indent=1) + "\n").encode()
