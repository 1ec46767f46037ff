"""The record of a generated image, one line of ``manifest.jsonl``, and the names of its files."""

import os
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

MAX_NAME = 200  # bytes of an id: file systems allow 255 for a name, and endings follow


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

    ``image``, ``label`` and ``vis`` are paths relative to the folder, unless :meth:`located`. ``crop`` is (x, y, width,
    height) in pixels of the source label map after scaling by ``label_scale``. ``class_name`` is the class that the
    crop was chosen for. ``rule_met`` is False if no crop held that class on the required share of its area and the best
    crop was taken. ``prompt_used`` is ``prompt`` without the class names that exceeded the model's text length.
    ``style`` is "none" for a prompt without a style. ``guidance_scale`` is that of the style; None: it has none of its
    own. Neither None nor an empty ``negative_prompt`` is written. ``retried`` is True if the image was not finite and
    was computed again in fp32.

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
    negative_prompt: str = ""
    guidance_scale: float | None = None

    def located(self, folder: Path) -> "Record":
        """Return a copy with absolute paths, which open from anywhere; ``folder`` is that of the record."""
        image, label, vis = (str(folder.absolute() / name) for name in (self.image, self.label, self.vis))
        return replace(self, image=image, label=label, vis=vis)

    @property
    def agreement(self) -> float | None:
        """Agreement of the attempt that was kept."""
        return next((attempt.agreement for attempt in self.attempts if attempt.seed == self.seed), None)

    def to_json(self) -> dict[str, Any]:
        """Return the line of the manifest; its keys are in the order of the fields."""
        values = {("class" if key == "class_name" else key): value for key, value in asdict(self).items()}
        attempts, accepted = values.pop("attempts"), values.pop("accepted")
        words = {key: values.pop(key) for key in ("negative_prompt", "guidance_scale")}
        worded = {key: value for key, value in words.items() if value not in ("", None)}
        judged = {"agreement": self.agreement, "accepted": accepted, "attempts": list(attempts)}
        return {**values, "crop": list(self.crop), **worded, **(judged if self.attempts else {})}

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
    line = with_slashes(line)
    try:
        record = Record.from_json(line)
    except ValueError:
        return None
    return record if names_own_files(line, "image", "label", "vis") else None


def with_slashes(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest line of Windows with slashes in its paths."""
    paths = {key: line[key].replace("\\", "/") for key in ("image", "label", "vis") if isinstance(line.get(key), str)}
    return {**line, **paths}


def line_fault(line: Mapping[str, Any]) -> str:
    """Return what is wrong with the values of a manifest line that describes a scene, empty if nothing is.

    Only keys that are there are checked; ``crop`` may be None.
    """
    for key, (allowed, kind) in _VALUES.items():
        if key in line and not allowed(line[key]):
            return f"{key} is {reprlib.repr(line[key])}, not {kind}"
    return ""


def _is_text(value: Any) -> bool:
    """Return whether ``value`` is a string that can be written and displayed: no lone surrogates, no NUL."""
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def _is_name(value: Any) -> bool:
    return _is_text(value) and 0 < len(value.encode()) <= MAX_NAME


def is_path(value: Any) -> bool:
    """Return whether ``value`` can be the path of a file, whose bytes need not be UTF-8."""
    try:
        parts = re.split(rb"[/\\]", os.fsencode(value))
    except (TypeError, UnicodeEncodeError):
        return False
    return isinstance(value, str) and value != "" and "\0" not in value and max(map(len, parts)) <= 255


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_crop(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 4 and all(map(_is_whole, value)))


def _is_digest(value: Any) -> bool:
    return value is None or (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None)


_TEXT, _PATH, _DIGEST = (_is_text, "a text"), (is_path, "a path"), (_is_digest, "a SHA-256 in hexadecimal")
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": (_is_name, f"a text of 1 to {MAX_NAME} bytes"),
    "index": (_is_whole, "an integer"),
    "image": _PATH,
    "label": _PATH,
    "source": _TEXT,
    "class": (lambda value: value is None or _is_text(value), "a text"),
    "crop": (_is_crop, "four integers"),
    "prompt": _TEXT,
    "negative_prompt": _TEXT,
    "style": _TEXT,
    "seed": (_is_whole, "an integer of 64 bits"),
    "image_sha256": _DIGEST,
    "label_sha256": _DIGEST,
}


def names_own_files(line: Mapping[str, Any], *kinds: str) -> bool:
    """Return whether a manifest line names the files of its own id: an edited line must not point elsewhere."""
    image_id = line.get("id")
    if not _is_name(image_id) or "/" in str(image_id):
        return False
    assert isinstance(image_id, str)
    names = file_names(image_id)
    return all(line.get(kind) == names[kind] for kind in kinds)
