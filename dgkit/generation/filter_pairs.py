"""The scenes that ``dgkit filter`` works on, and what a segmenter says of each, kept so that a stopped run goes on."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.data.datasets import Sample, labels_folder, open_dataset, read_pair
from dgkit.data.filtering import Judgement, judge, perceptual_hash
from dgkit.data.layouts import LAYOUTS
from dgkit.data.manifest import Manifest, read
from dgkit.data.prompts import NO_STYLE
from dgkit.errors import InputError
from dgkit.files import digest_file
from dgkit.labels import CLASSES, NUM_CLASSES
from dgkit.segmenters.onnx_model import Segmenter

HELD_BYTES = 2**29  # of loss maps kept from the first look for the second
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Pair:
    """One labelled image. ``second`` is the path of its second label below the folder of those."""

    sample: Sample
    second: str
    style: str = NO_STYLE

    def digests(self) -> dict[str, str]:
        """SHA-256 of image and label. Raises InputError."""
        try:
            return {
                "image_sha256": digest_file(str(self.sample.image)),
                "source_label_sha256": digest_file(self.sample.label),
            }
        except OSError as error:
            raise InputError(
                f"{error.filename}: {error.strerror}", "run dgkit generate into this folder again"
            ) from error


@dataclass(frozen=True, eq=False)
class Measured:
    """One scene as the segmenter sees it; the sums are those of :class:`~dgkit.data.filtering.Judgement`."""

    digests: dict[str, str]
    hash: int
    agreement: float | None
    mean_loss: float | None
    pixels: np.ndarray
    losses: np.ndarray

    def to_json(self, scene_id: str) -> dict[str, Any]:
        seen = np.flatnonzero(self.pixels).tolist()
        return {
            "id": scene_id,
            **self.digests,
            "hash": f"{self.hash:016x}",
            "agreement": self.agreement,
            "mean_loss": self.mean_loss,
            "classes": {CLASSES[i]: [int(self.pixels[i]), float(self.losses[i])] for i in seen},
        }

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> "Measured":
        pixels, losses = np.zeros(NUM_CLASSES, np.int64), np.zeros(NUM_CLASSES)
        for name, (count, loss) in line["classes"].items():
            pixels[CLASSES.index(name)], losses[CLASSES.index(name)] = count, loss
        digests = {key: line[key] for key in ("image_sha256", "source_label_sha256")}
        return cls(digests, int(line["hash"], 16), line["agreement"], line["mean_loss"], pixels, losses)


def list_pairs(out: Path) -> list[Pair]:
    """The scenes of ``out``: those of its manifest, else all pairs of ``images/`` and ``labels/`` (train ids).

    Raises InputError for a folder without scenes.
    """
    manifest = out / "manifest.jsonl"
    if not manifest.is_file():
        samples = (sample for sample in labels_folder(out).samples if sample.image is not None)
        pairs = [Pair(sample, sample.label.relative_to(out / "labels").as_posix()) for sample in samples]
    else:
        try:
            pairs = [_from_record(out, record) for record in read(manifest)]
        except (KeyError, TypeError) as error:
            raise InputError(f"{manifest} states no {error}", "give a folder that dgkit generate wrote") from error
    if not pairs:
        raise InputError(f"{out} holds no labelled images", f"dgkit generate {out} makes some")
    return pairs


def _from_record(out: Path, record: dict[str, Any]) -> Pair:
    sample = Sample(str(record["id"]), out / record["label"], out / record["image"], "train_ids")
    return Pair(sample, Path(record["label"]).name, str(record.get("style", NO_STYLE)))


def reference_pairs(reference: str) -> list[Pair]:
    """The pairs of a labelled set, a folder or ``NAME=DIR``. Raises InputError."""
    name, equals, folder = reference.partition("=")
    dataset = open_dataset(name, folder) if equals and name in LAYOUTS else labels_folder(reference)
    pairs = [Pair(sample, "") for sample in dataset.samples if sample.image is not None]
    if not pairs:
        raise InputError(f"{reference} holds no photographs of its label maps", "give a set with both")
    return pairs


class Judge:
    """A segmenter, or none; ``look`` gives what it says of a scene."""

    def __init__(self, path: Path | None) -> None:
        """Raises InputError, EngineError, MissingDependency."""
        self._segmenter = None if path is None else Segmenter(path)
        self.digest = None if self._segmenter is None else self._segmenter.digest
        sidecar = None if self._segmenter is None else self._segmenter.sidecar.model_dump(mode="json")
        self.identity: dict[str, Any] = {"segmenter_sha256": self.digest, "sidecar": sidecar}
        self._held: dict[str, np.ndarray] = {}
        self._room = HELD_BYTES

    def look(self, image: np.ndarray, label: np.ndarray) -> Judgement:
        """Judge uint8 [H,W,3] RGB against uint8 [H,W]; without a segmenter nothing is known of any pixel."""
        if self._segmenter is None:
            nothing = np.full(label.shape, np.nan, np.float32)
            return Judgement(nothing, np.zeros(NUM_CLASSES, np.int64), np.zeros(NUM_CLASSES), None)
        return judge(*self._segmenter.logits(image), label)

    def measure(self, pair: Pair, digests: dict[str, str], hold: bool) -> Measured:
        """Read a scene and judge it; ``hold`` keeps its loss for :meth:`loss` as long as there is room."""
        image, label = read_pair(pair.sample)
        found = self.look(image, label)
        if hold and found.loss.nbytes <= self._room:
            self._held[pair.second] = found.loss
            self._room -= found.loss.nbytes
        return Measured(digests, perceptual_hash(image), found.agreement, found.mean_loss, found.pixels, found.losses)

    def loss(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """(label uint8 [H,W], loss float32 [H,W]) of a scene."""
        image, label = read_pair(pair.sample)
        held = self._held.pop(pair.second, None)
        return label, self.look(image, label).loss if held is None else held


def measure_all(
    pairs: Sequence[Pair], judge: Judge, journal: Path, report: Report, *, hold: bool = True
) -> list[Measured]:
    """Every scene as the judge sees it. What ``journal`` knows of unchanged files by the same segmenter is not done
    again. Raises InputError, LabelError, EngineError, OutputError.
    """
    settings = judge.identity
    manifest = Manifest(journal)
    manifest.repair()
    lines = manifest.read()
    if lines[:1] != [settings]:
        journal.unlink(missing_ok=True)
        manifest.append(settings)
    known = {line["id"]: line for line in lines[1:]} if lines[:1] == [settings] else {}
    found: list[Measured] = []
    for pair in pairs:
        digests, line = pair.digests(), known.get(pair.sample.id)
        if line is not None and all(line[key] == value for key, value in digests.items()):
            found.append(Measured.from_json(line))
        else:
            found.append(judge.measure(pair, digests, hold))
            manifest.append(found[-1].to_json(pair.sample.id))
        report(len(found), len(pairs))
    return found


def canonical(value: Any) -> str:
    """JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, allow_nan=False)
