"""What the segmenter of ``dgkit filter`` measures of each scene, kept in a journal so that a stopped run resumes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.data.datasets import labels_folder, open_dataset
from dgkit.data.filtering import Judgement, judge, perceptual_hash
from dgkit.data.generated import SceneFiles
from dgkit.data.index import table_digest
from dgkit.data.layouts import ALIASES, LAYOUTS
from dgkit.data.manifest import Manifest
from dgkit.data.pictures import reading
from dgkit.errors import InputError
from dgkit.progress import Advance
from dgkit.segmenters.onnx import open_onnx_segmenter
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

DIGESTS = ("image_sha256", "source_label_sha256", "image_reading")  # what a measurement is of
_KEYS = (*DIGESTS, "encoding")  # a reference may hold other ids than train ids
CACHE_BYTES = 2**29  # of loss maps kept from measuring for filtering


@dataclass(frozen=True, eq=False)
class SceneMeasurement:
    """Digests, perceptual hash and judgement of a scene.

    ``digests`` also holds :func:`~dgkit.data.pictures.reading` of the image if it is not empty, and the digest of the
    encoding of its label map unless that holds train ids.

    ``pixels`` int64 [K] and ``losses`` float64 [K] are those of :class:`~dgkit.data.filtering.Judgement`.
    """

    digests: dict[str, str]
    hash: int
    agreement: float | None
    mean_loss: float | None
    pixels: np.ndarray
    losses: np.ndarray

    def to_json(self, scene_id: str, names: Sequence[str] = CITYSCAPES19.names) -> dict[str, Any]:
        """Return the line of the journal; ``names`` are those of the classes."""
        present = np.flatnonzero(self.pixels).tolist()
        return {
            "id": scene_id,
            **self.digests,
            "hash": f"{self.hash:016x}",
            "agreement": self.agreement,
            "mean_loss": self.mean_loss,
            "classes": {names[i]: [int(self.pixels[i]), float(self.losses[i])] for i in present},
        }

    @classmethod
    def from_json(cls, line: dict[str, Any], names: Sequence[str] = CITYSCAPES19.names) -> "SceneMeasurement":
        """Return the measurement of a line of the journal. Raises ValueError if its values are damaged."""
        try:
            return cls._from_json(line, names)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(str(error)) from error

    @classmethod
    def _from_json(cls, line: dict[str, Any], names: Sequence[str]) -> "SceneMeasurement":
        pixels, losses = np.zeros(len(names), np.int64), np.zeros(len(names))
        for name, (count, loss) in line["classes"].items():
            number = names.index(name)
            pixels[number], losses[number] = _number(count, 2**40), _number(loss)
        shares = [None if line[key] is None else _number(line[key], most) for key, most in _SHARES]
        digests = {key: line[key] for key in _KEYS if key in line}
        code = int(line["hash"], 16)
        if not 0 <= code < 2**64:
            raise ValueError(f"the hash {code:x} is not one of 64 bits")
        return cls(digests, code, shares[0], shares[1], pixels, losses)


_SHARES = (("agreement", 1), ("mean_loss", np.inf))  # with the largest value of each


def _number(value: Any, most: float = np.inf) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{value!r} is not a number from 0 to {most}")
    return value


def list_reference(reference: str, taxonomy: Taxonomy = CITYSCAPES19) -> list[SceneFiles]:
    """Return the images of a set, a folder or ``NAME=DIR``, with labels of ``taxonomy``. Raises InputError."""
    name, equals, folder = reference.partition("=")
    is_set = equals and ALIASES.get(name, name) in LAYOUTS
    found = open_dataset(name, folder, None, taxonomy) if is_set else labels_folder(reference, None, taxonomy)
    scenes = [
        SceneFiles(s.id, s.image, s.label, s.encoding, taxonomy=taxonomy) for s in found.samples if s.image is not None
    ]
    if not scenes:
        raise InputError(f"{reference} holds no images for its label maps", "pass a data set with images and labels")
    return scenes


class SceneJudge:
    """The segmenter of a filter run, or none, for filters that need none."""

    def __init__(self, path: Path | None, taxonomy: Taxonomy = CITYSCAPES19) -> None:
        """Open the ONNX file at ``path``, of these classes. Raises InputError, EngineError, MissingDependency."""
        self.taxonomy = taxonomy
        self._segmenter = None if path is None else open_onnx_segmenter(path, taxonomy)
        self.digest = None if self._segmenter is None else self._segmenter.digest
        self.notes = () if self._segmenter is None else self._segmenter.notes
        reading = {"sidecar": None} if self._segmenter is None else self._segmenter.reading()
        self.identity: dict[str, Any] = {"segmenter_sha256": self.digest, **reading}
        if not taxonomy.is_default:
            self.identity["taxonomy"] = taxonomy.document()
        self._losses: dict[Path, np.ndarray] = {}
        self._free_bytes = CACHE_BYTES

    def judge(self, image: np.ndarray, label: np.ndarray, name: str = "the image") -> Judgement:
        """Compare uint8 [H,W,3] RGB with uint8 [H,W] train ids; without a segmenter every loss is nan."""
        if self._segmenter is None:
            unknown = np.full(label.shape, np.nan, np.float32)
            return Judgement(unknown, np.zeros(self.taxonomy.size, np.int64), np.zeros(self.taxonomy.size), None)
        logits = self._segmenter.image_logits(image, name)
        return judge(logits, self._segmenter.classes, label, self.taxonomy.size)

    def measure(self, scene: SceneFiles, digests: dict[str, str], keep_loss: bool) -> SceneMeasurement:
        """Read and judge a scene; ``keep_loss`` caches its loss for :meth:`loss`, up to :data:`CACHE_BYTES`."""
        pixels = scene.read()
        found = self.judge(pixels.image, pixels.label, str(scene.image))
        if keep_loss and found.loss.nbytes <= self._free_bytes:
            self._losses[scene.label] = found.loss
            self._free_bytes -= found.loss.nbytes
        code = perceptual_hash(pixels.image)
        return SceneMeasurement(digests, code, found.agreement, found.mean_loss, found.pixels, found.losses)

    def loss(self, scene: SceneFiles) -> tuple[np.ndarray, np.ndarray]:
        """Return (label uint8 [H,W], loss float32 [H,W]) of a scene."""
        pixels = scene.read()
        cached = self._losses.pop(scene.label, None)
        if cached is None:
            cached = self.judge(pixels.image, pixels.label, str(scene.image)).loss
        return pixels.label, cached


def measure_scenes(
    scenes: Sequence[SceneFiles], judge: SceneJudge, journal: Path, advance: Advance, *, keep_losses: bool = True
) -> list[SceneMeasurement]:
    """Return the measurement of each scene; those of unchanged files by the same segmenter come from ``journal``.

    ``advance`` counts scenes. Raises InputError, LabelError, EngineError, OutputError.
    """
    manifest = Manifest(journal)
    manifest.repair()
    lines = manifest.read()
    valid = lines[:1] == [judge.identity]
    if not valid:
        journal.unlink(missing_ok=True)
        manifest.append(judge.identity)
    known = {str(line.get("id")): line for line in lines[1:]} if valid else {}
    measured: list[SceneMeasurement] = []
    for scene in scenes:
        digests = dict(zip(("image_sha256", "source_label_sha256"), scene.digests(), strict=True))
        if how := reading(scene.image):
            digests["image_reading"] = how
        if scene.encoding != "train_ids":
            digests["encoding"] = table_digest(scene.encoding, scene.taxonomy)
        found = _known(known.get(scene.id), digests, judge.taxonomy.names)
        if found is None:
            found = judge.measure(scene, digests, keep_losses)
            manifest.append(found.to_json(scene.id, judge.taxonomy.names))
        measured.append(found)
        advance(len(measured), len(scenes))
    return measured


def _known(line: dict[str, Any] | None, digests: dict[str, str], names: Sequence[str]) -> SceneMeasurement | None:
    """Return the measurement of a line of the journal; None if it is of other files, or damaged."""
    if line is None or any(line.get(key) != digests.get(key) for key in _KEYS):
        return None
    try:
        return SceneMeasurement.from_json(line, names)
    except ValueError:
        return None


def canonical(value: Any) -> str:
    """Return JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, allow_nan=False)
