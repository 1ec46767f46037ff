"""The record of a generated image, one line of ``manifest.jsonl``, and the names of its files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter


@dataclass(frozen=True)
class Attempt:
    """One sampling of an image.

    ``seed``: seed of its noise. ``agreement``: share of the labelled pixels, 0..1, that the judge classifies as the
    label says; None if every pixel is ignored or of a class that the judge does not know.
    """

    seed: int
    agreement: float | None


@dataclass(frozen=True)
class Record:
    """One image of a generated folder.

    ``image``, ``label`` and ``vis`` are paths relative to the folder. ``crop`` is (x, y, width, height) in pixels of
    the source label map after scaling by ``label_scale``. ``class_name`` is the class that the crop was chosen for.
    ``rule_met`` is False if no crop held that class on the required share of its area and the best crop was taken.
    ``prompt_used`` is ``prompt`` without the class names that exceeded the model's text length. ``style`` is "none" for
    a prompt without a style. ``retried`` is True if the image was not finite and was computed again in fp32.

    With a judge, ``attempts`` are all samplings of the image and ``seed`` is that of the one that was kept.
    ``accepted`` is False if its agreement is below the required one, in which case the best attempt was kept.
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
        """Agreement of the attempt that was kept."""
        return next((attempt.agreement for attempt in self.attempts if attempt.seed == self.seed), None)

    def to_json(self) -> dict[str, Any]:
        """Return the line of the manifest; its keys are in the order of the fields."""
        values = {("class" if key == "class_name" else key): value for key, value in asdict(self).items()}
        attempts, accepted = values.pop("attempts"), values.pop("accepted")
        judged = {"agreement": self.agreement, "accepted": accepted, "attempts": list(attempts)}
        return {**values, "crop": list(self.crop), **(judged if self.attempts else {})}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "Record":
        """Return the record of a manifest line; further keys are ignored. Raises ValueError if it is not a record."""
        return _ADAPTER.validate_python({("class_name" if key == "class" else key): line[key] for key in line})


_ADAPTER = TypeAdapter(Record)


def file_names(image_id: str) -> dict[str, str]:
    """Return the paths of the files ``image``, ``label`` and ``vis`` of an image, relative to its folder."""
    return {
        "image": f"images/{image_id}.png",
        "label": f"labels/{image_id}_labelTrainIds.png",
        "vis": f"vis/{image_id}.png",
    }


def parse_record(line: Mapping[str, Any]) -> Record | None:
    """Return the record of a manifest line, or None if it is none or names files other than its own."""
    try:
        record = Record.from_json(line)
    except ValueError:
        return None
    return record if names_own_files(line, "image", "label", "vis") else None


def names_own_files(line: Mapping[str, Any], *kinds: str) -> bool:
    """Return whether a manifest line names the files of its own id: an edited line must not point elsewhere."""
    image_id = line.get("id")
    if not isinstance(image_id, str) or "/" in image_id:
        return False
    names = file_names(image_id)
    return all(line.get(kind) == names[kind] for kind in kinds)
