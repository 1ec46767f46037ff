"""What a run says about each image, and what it returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Attempt:
    """One drawing of an image: its noise seed, and the share of the labelled pixels that the judge calls as labelled.

    ``agreement`` is None where every pixel is ignore or of a class that the judge does not know.
    """

    seed: int
    agreement: float | None


@dataclass(frozen=True)
class Record:
    """One image of an output folder: one line of its ``manifest.jsonl``.

    ``crop`` is (x, y, width, height) in pixels of the source label map after scaling by ``label_scale``. ``image``,
    ``label`` and ``vis`` are paths relative to the folder. ``rule_met`` is False where no crop held the drawn class on
    the share of the area that the settings ask for, and the best one was taken. ``prompt_used`` is ``prompt`` without
    the class names that did not fit the model's text length. ``retried`` is True where the image was
    computed again in fp32 because it was not finite. ``style`` is "none" for a prompt without one. Where a judge looked
    at the image, ``attempts`` are all drawings of it, ``seed`` that of the one that was kept, and ``accepted`` is False
    where it agrees less than the settings ask for: then it is the best of them.
    """

    index: int
    id: str
    image: str
    label: str
    vis: str
    source: str
    class_name: str | None
    crop: tuple[int, int, int, int]
    label_scale: float
    rule_met: bool
    prompt: str
    prompt_used: str
    style: str
    seed: int
    retried: bool
    image_sha256: str
    label_sha256: str
    attempts: tuple[Attempt, ...] = ()
    accepted: bool = True

    @property
    def agreement(self) -> float | None:
        """Of the drawing that was kept."""
        return next((attempt.agreement for attempt in self.attempts if attempt.seed == self.seed), None)

    def to_json(self) -> dict[str, Any]:
        judged = {
            "agreement": self.agreement,
            "accepted": self.accepted,
            "attempts": [{"seed": attempt.seed, "agreement": attempt.agreement} for attempt in self.attempts],
        }
        return {
            "index": self.index,
            "id": self.id,
            "image": self.image,
            "label": self.label,
            "vis": self.vis,
            "source": self.source,
            "class": self.class_name,
            "crop": list(self.crop),
            "label_scale": self.label_scale,
            "rule_met": self.rule_met,
            "prompt": self.prompt,
            "prompt_used": self.prompt_used,
            "style": self.style,
            "seed": self.seed,
            "retried": self.retried,
            "image_sha256": self.image_sha256,
            "label_sha256": self.label_sha256,
            **(judged if self.attempts else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Record":
        """Raise KeyError, TypeError or ValueError where ``values`` is not the record of an image."""
        x, y, width, height = (int(value) for value in values["crop"])
        class_name = values["class"]
        return cls(
            index=int(values["index"]),
            id=str(values["id"]),
            image=str(values["image"]),
            label=str(values["label"]),
            vis=str(values["vis"]),
            source=str(values["source"]),
            class_name=None if class_name is None else str(class_name),
            crop=(x, y, width, height),
            label_scale=float(values["label_scale"]),
            rule_met=bool(values["rule_met"]),
            prompt=str(values["prompt"]),
            prompt_used=str(values["prompt_used"]),
            style=str(values["style"]),
            seed=int(values["seed"]),
            retried=bool(values["retried"]),
            image_sha256=str(values["image_sha256"]),
            label_sha256=str(values["label_sha256"]),
            attempts=tuple(Attempt(int(a["seed"]), _share(a["agreement"])) for a in values.get("attempts", ())),
            accepted=bool(values.get("accepted", True)),
        )


def _share(value: Any) -> float | None:
    return None if value is None else float(value)


@dataclass(frozen=True)
class GenerateResult:
    """The folder after a run. ``records`` are all images in it, in job order; ``written`` were made by this run.

    ``source_pixels`` are the pixels of the 19 classes in all label maps of the source, at the scale they were drawn at.
    """

    out: Path
    records: tuple[Record, ...]
    written: int
    continued: int
    seconds: float
    model: str
    source_pixels: tuple[int, ...] | None = None

    @property
    def contact_sheet(self) -> Path:
        return self.out / "contact_sheet.png"

    @property
    def manifest(self) -> Path:
        return self.out / "manifest.jsonl"

    @property
    def images_per_hour(self) -> float:
        """Of this run, setting up included; 0 where it wrote nothing."""
        return 3600 * self.written / self.seconds if self.seconds > 0 else 0.0

    @property
    def styles(self) -> dict[str, int]:
        """Number of images of each style in the folder."""
        counts: dict[str, int] = {}
        for record in self.records:
            counts[record.style] = counts.get(record.style, 0) + 1
        return counts

    def to_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "images": len(self.records),
            "written": self.written,
            "continued": self.continued,
            "seconds": round(self.seconds, 3),
            "images_per_hour": round(self.images_per_hour, 1),
            "styles": self.styles,
            "retried": sum(record.retried for record in self.records),
            "rule_not_met": sum(not record.rule_met for record in self.records),
            "model": self.model,
            "manifest": str(self.manifest),
            "contact_sheet": str(self.contact_sheet),
        }
