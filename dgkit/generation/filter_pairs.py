"""The scenes that ``dgkit filter`` works on, and what a segmenter says of each, kept so that a stopped run goes on."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.data.datasets import labels_folder, open_dataset
from dgkit.data.filtering import Judgement, judge, perceptual_hash
from dgkit.data.generated import SceneFiles
from dgkit.data.layouts import LAYOUTS
from dgkit.data.manifest import Manifest
from dgkit.errors import InputError
from dgkit.labels import CLASSES, NUM_CLASSES
from dgkit.segmenters.onnx import open_onnx_segmenter

HELD_BYTES = 2**29  # of loss maps kept from the first look for the second
Report = Callable[[int, int], None]


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


def list_reference(reference: str) -> list[SceneFiles]:
    """Return the labelled images of a set, a folder or ``NAME=DIR``. Raises InputError."""
    name, equals, folder = reference.partition("=")
    dataset = open_dataset(name, folder) if equals and name in LAYOUTS else labels_folder(reference)
    scenes = [SceneFiles(s.id, s.image, s.label, s.encoding) for s in dataset.samples if s.image is not None]
    if not scenes:
        raise InputError(f"{reference} holds no photographs of its label maps", "give a set with both")
    return scenes


class Judge:
    """A segmenter, or none; ``look`` gives what it says of a scene."""

    def __init__(self, path: Path | None) -> None:
        """Raises InputError, EngineError, MissingDependency."""
        self._segmenter = None if path is None else open_onnx_segmenter(path)
        self.digest = None if self._segmenter is None else self._segmenter.digest
        sidecar = None if self._segmenter is None else self._segmenter.sidecar.model_dump(mode="json")
        self.identity: dict[str, Any] = {"segmenter_sha256": self.digest, "sidecar": sidecar}
        self._held: dict[Path, np.ndarray] = {}
        self._room = HELD_BYTES

    def look(self, image: np.ndarray, label: np.ndarray) -> Judgement:
        """Judge uint8 [H,W,3] RGB against uint8 [H,W]; without a segmenter nothing is known of any pixel."""
        if self._segmenter is None:
            nothing = np.full(label.shape, np.nan, np.float32)
            return Judgement(nothing, np.zeros(NUM_CLASSES, np.int64), np.zeros(NUM_CLASSES), None)
        return judge(self._segmenter.image_logits(image), self._segmenter.classes, label)

    def measure(self, scene: SceneFiles, digests: dict[str, str], hold: bool) -> Measured:
        """Read a scene and judge it; ``hold`` keeps its loss for :meth:`loss` as long as there is room."""
        read = scene.read()
        found = self.look(read.image, read.label)
        if hold and found.loss.nbytes <= self._room:
            self._held[scene.label] = found.loss
            self._room -= found.loss.nbytes
        return Measured(
            digests, perceptual_hash(read.image), found.agreement, found.mean_loss, found.pixels, found.losses
        )

    def loss(self, scene: SceneFiles) -> tuple[np.ndarray, np.ndarray]:
        """(label uint8 [H,W], loss float32 [H,W]) of a scene."""
        read = scene.read()
        held = self._held.pop(scene.label, None)
        return read.label, self.look(read.image, read.label).loss if held is None else held


def measure_all(
    scenes: Sequence[SceneFiles], judge: Judge, journal: Path, report: Report, *, hold: bool = True
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
    for scene in scenes:
        digests = dict(zip(("image_sha256", "source_label_sha256"), scene.digests(), strict=True))
        line = known.get(scene.id)
        if line is not None and all(line[key] == value for key, value in digests.items()):
            found.append(Measured.from_json(line))
        else:
            found.append(judge.measure(scene, digests, hold))
            manifest.append(found[-1].to_json(scene.id))
        report(len(found), len(scenes))
    return found


def canonical(value: Any) -> str:
    """JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, allow_nan=False)
