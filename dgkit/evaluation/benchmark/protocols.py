"""The protocols by which published work evaluates segmenters: input scales, windows and means.

Sources: DGInStyle-SegModel ``tools/test.py`` and ``test.sh`` (scales, windows), mmcv ``image/geometric.py`` (sizes),
mmsegmentation ``encoder_decoder.py`` (windows) and ``iou_metric.py`` (means), Rein ``configs/_base_`` (``half``).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dgkit.errors import UsageError, did_you_mean

Window = tuple[int, int, int, int]  # top, bottom, left, right
Scale = tuple[int, int]

# Data sets in each mean of the papers.
AVERAGES = {
    "Avg3": ("cityscapes", "bdd100k", "mapillary"),
    "Avg5": ("cityscapes", "bdd100k", "mapillary", "acdc", "dark_zurich"),
}
_MAPILLARY = ("mapillary", "mapillary_b", "mapillary_v2")


@dataclass(frozen=True)
class Protocol:
    """Constants of one evaluation protocol; sizes are in pixels.

    ``scale``: images are resized, keeping their proportions, to fit inside (long edge, short edge); ``scales`` has
    exceptions by data set. ``crop``: side of the sliding windows, None for whole images; ``stride``: distance between
    windows. ``halved``: data sets whose images and labels are halved before anything else.
    """

    name: str
    description: str
    scale: Scale
    crop: int | None
    stride: int
    scales: Mapping[str, Scale] = field(default_factory=dict)
    halved: tuple[str, ...] = ()

    def scale_of(self, dataset: str) -> Scale:
        """Return (long edge, short edge) for ``dataset``."""
        return self.scales.get(dataset, self.scale)

    def changed(self, scale: Scale | None = None, crop: int | None = None, stride: int | None = None) -> "Protocol":
        """Return this protocol with other constants, ``scale`` for all data sets.

        Raises UsageError for a stride larger than the windows.
        """
        own: dict[str, Any] = {} if scale is None else {"scale": scale, "scales": {}}
        own |= {name: value for name, value in (("crop", crop), ("stride", stride)) if value is not None}
        if not own:
            return self
        if crop is not None and stride is None:
            own["stride"] = max(1, crop // 2)
        constants = ", ".join(f"{name} {value}" for name, value in own.items() if name != "scales")
        found = replace(
            self, name=f"{self.name}, changed", description=f"{self.description}; changed to {constants}", **own
        )
        if found.crop is not None and not 1 <= found.stride <= found.crop:
            raise UsageError(
                f"stride {found.stride} is not within 1 to {found.crop}, the size of the windows",
                f"use --set stride={max(1, found.crop // 2)}",
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Return all constants as JSON values, with lists for tuples, as a report is read back."""
        return json.loads(json.dumps(asdict(self)))


_NIGHT = {"acdc": (960, 540), "dark_zurich": (960, 540)}
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "dginstyle", "DGInStyle's for SegFormer and DAFormer: half scale, windows of 512", (1024, 512), 512, 256,
            _NIGHT,
        ),
        Protocol(
            "hrda", "DGInStyle's for HRDA: full scale, windows of 1024", (2048, 1024), 1024, 512,
            dict.fromkeys(_NIGHT, (1920, 1080)),
        ),
        Protocol(
            "half", "Rein's: Mapillary images and labels halved; not comparable with dginstyle", (1024, 512),
            512, 341, {**_NIGHT, "bdd100k": (1280, 720)}, _MAPILLARY,
        ),
        Protocol("whole", "DGInStyle's for DeepLabV2: half scale, whole images", (1024, 512), None, 1, _NIGHT),
    )
}  # fmt: skip


def find_protocol(name: str) -> Protocol:
    """Return the protocol ``name``. Raises UsageError, listing the known protocols."""
    if name not in PROTOCOLS:
        raise UsageError(
            f"unknown protocol {name!r}; known protocols: {', '.join(PROTOCOLS)}",
            did_you_mean(name, PROTOCOLS, "use --protocol dginstyle"),
        )
    return PROTOCOLS[name]


def fitted_size(height: int, width: int, scale: Scale) -> tuple[int, int]:
    """Return (height, width) of an image resized to fit inside ``scale``, rounded as mmcv's ``rescale_size`` does."""
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def windows(height: int, width: int, crop: int | None, stride: int) -> list[Window]:
    """Return windows that cover an image, row by row, as mmsegmentation's ``slide_inference`` places them.

    The last window of a row or column is moved inside; an image smaller than ``crop`` has smaller windows.
    """
    if crop is None:
        return [(0, height, 0, width)]
    spans = [[_span(index, size, crop, stride) for index in range(_grids(size, crop, stride))]
             for size in (height, width)]  # fmt: skip
    return [(*rows, *columns) for rows in spans[0] for columns in spans[1]]


def _grids(size: int, crop: int, stride: int) -> int:
    return max(size - crop + stride - 1, 0) // stride + 1


def _span(index: int, size: int, crop: int, stride: int) -> tuple[int, int]:
    end = min(index * stride + crop, size)
    return max(end - crop, 0), end
