"""The result of ``generate`` and ``merge``."""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from dgkit.data.generated import MANIFEST
from dgkit.data.records import Record


@dataclass(frozen=True)
class GenerateResult:
    """State of the output folder after a run.

    ``records``: all images in the folder, in job order, with absolute paths. ``written``: number of images made by this
    run. ``continued``: number of images that were there before. ``source_pixels``: pixels of each of the 19 classes in
    all label maps of the source, at the scale at which crops were taken; None if unknown. ``build_seconds``: the share
    of ``seconds`` in which engines were built, once per model.
    """

    out: Path
    records: tuple[Record, ...]
    written: int
    continued: int
    seconds: float
    model: str
    source_pixels: tuple[int, ...] | None = None
    build_seconds: float = 0.0

    @property
    def contact_sheet(self) -> Path:
        """Path of the contact sheet."""
        return self.out / "contact_sheet.png"

    @property
    def manifest(self) -> Path:
        """Path of the manifest."""
        return self.out / MANIFEST

    @property
    def images_per_hour(self) -> float:
        """Images that this run wrote per hour, set-up included but not the builds of engines; 0 if it wrote none."""
        seconds = self.seconds - self.build_seconds
        return 3600 * self.written / seconds if seconds > 0 else 0.0

    @property
    def mean_agreement(self) -> float | None:
        """Mean agreement of the images that a judge scored; None if there are none."""
        found = [record.agreement for record in self.records if record.agreement is not None]
        return fmean(found) if found else None

    @property
    def styles(self) -> dict[str, int]:
        """Number of images of each style in the folder."""
        counts: dict[str, int] = {}
        for record in self.records:
            counts[record.style] = counts.get(record.style, 0) + 1
        return counts

    def to_json(self) -> dict[str, Any]:
        """Return what ``dgkit generate --json`` prints."""
        return {
            "out": str(self.out),
            "images": len(self.records),
            "written": self.written,
            "continued": self.continued,
            "seconds": round(self.seconds, 3),
            "build_seconds": round(self.build_seconds, 3),
            "images_per_hour": round(self.images_per_hour, 1),
            "styles": self.styles,
            "retried": sum(record.retried for record in self.records),
            "rule_not_met": sum(not record.rule_met for record in self.records),
            "model": self.model,
            "manifest": str(self.manifest),
            "contact_sheet": str(self.contact_sheet),
        }
