"""Measure a folder of labelled images: agreement with labels and prompts, distance to a reference, diversity."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.data.folder_taxonomy import folder_taxonomy
from dgkit.data.generated import LabelledImage, list_scenes
from dgkit.data.scores import class_iou, confusion, pixel_accuracy, summary
from dgkit.errors import InputError
from dgkit.evaluation.quality.distances import diversity, frechet_distance, kernel_distance
from dgkit.evaluation.quality.features import ImageFeatures
from dgkit.evaluation.quality.renders import PAIRED, city_sources, is_paired, render_reference
from dgkit.files import atomic_write, json_bytes
from dgkit.labels import IGNORE
from dgkit.progress import Advance, Progress, ignore, within
from dgkit.prompts import STYLE_NAMES, STYLES
from dgkit.provenance import record
from dgkit.segmenters.onnx import OnnxSegmenter, open_onnx_segmenter
from dgkit.segmenters.segmenter_sidecar import read_segmenter_sidecar
from dgkit.segmenters.style_classifier import StyleClassifier
from dgkit.taxonomies import CITYSCAPES19, Taxonomy, find_taxonomy, mixed

TRAIN_HINT = "dgkit train judge DIR trains a judge; then add --judge DIR"
FEATURE_SPACE = "the judge's segmenter (not Inception: compare only under the same judge)"
IMAGENET_SPACE = "EfficientNet-Lite0 with ImageNet weights (not Inception: compare only with each other)"


@dataclass(frozen=True)
class QualityJudge:
    """The networks that measure images; without ``styles``, prompts are not checked.

    ``features``: the network whose features distances and diversity are taken in, by default the segmenter.
    """

    segmenter: OnnxSegmenter
    styles: StyleClassifier | None = None
    features: ImageFeatures | None = None

    def to_json(self) -> dict[str, Any]:
        """Return path and SHA-256 of each network."""
        models = {"segmenter": self.segmenter, "styles": self.styles}
        found = {name: {"path": str(m.path), "sha256": m.digest} for name, m in models.items() if m is not None}
        notes = {"notes": list(self.segmenter.notes)} if self.segmenter.notes else {}
        space = {} if self.features is None else {"features": self.features.to_json()}
        return found | {"segmenter": {**found["segmenter"], **notes}} | space

    @property
    def feature_space(self) -> str:
        """What the features are of, for readers of distances."""
        return FEATURE_SPACE if self.features is None else IMAGENET_SPACE


@dataclass
class Measurement:
    """Sums and lists over one set of images.

    ``matrix``: int64 [K,K+1] over the classes of ``taxonomy``, rows are labels, the last column counts pixels of no
    class; ``agreement``: pixel accuracy of each image; ``seen``: (requested style, recognised style) of each image;
    ``features``: float32 [D] of each image; ``ignored`` and ``pixels`` count pixels.
    """

    taxonomy: Taxonomy = CITYSCAPES19
    matrix: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    by_style: dict[str, np.ndarray] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    ignored: int = 0
    pixels: int = 0

    def __post_init__(self) -> None:
        if not self.matrix.size:
            self.matrix = np.zeros((self.taxonomy.size, self.taxonomy.channels), np.int64)

    def add(self, image: LabelledImage, judge: QualityJudge) -> None:
        """Judge one image and add it."""
        predicted = judge.segmenter.predict(image.image, image.id)
        matrix = confusion(image.label, predicted.label, void=True, classes=self.taxonomy.size)
        self.matrix += matrix
        self.by_style[image.style] = self.by_style.get(image.style, 0) + matrix
        self.ids.append(image.id)
        self.agreement.append(pixel_accuracy(matrix))
        if judge.styles is not None:
            self.seen.append((image.style, judge.styles.predict(image.image, image.id)))
        features = predicted.features if judge.features is None else judge.features(image.image)
        if features is not None:
            self.features.append(features)
        self.ignored += int(np.count_nonzero(image.label == IGNORE))
        self.pixels += image.label.size

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values; shares are 0..1."""
        return {
            "images": len(self.ids),
            "ignored_share": self.ignored / max(1, self.pixels),
            "agreement": summary(self.matrix, self.taxonomy),
            "agreement_by_style": {
                style: {key: summary(matrix, self.taxonomy)[key] for key in ("miou", "small_miou", "pixel_accuracy")}
                for style, matrix in sorted(self.by_style.items())
            },
            "style": self._style(),
            "diversity": diversity(np.stack(self.features)) if len(self.features) > 1 else None,
        }

    def _style(self) -> dict[str, Any] | None:
        """Return the accuracy over the images whose style was requested; None if there are none."""
        requested = [(wanted, found) for wanted, found in self.seen if wanted in STYLES]
        if not requested:
            return None
        matrix = np.zeros((len(STYLES), len(STYLE_NAMES)), int)
        for wanted, found in requested:
            matrix[STYLES.index(wanted), STYLE_NAMES.index(found)] += 1
        rows = matrix.sum(1)
        return {
            "images": len(requested),
            "accuracy": float(np.trace(matrix) / len(requested)),
            "by_style": {s: float(matrix[i, i] / rows[i]) for i, s in enumerate(STYLES) if rows[i]},
            "recognised_as": list(STYLE_NAMES),
            "confusion": {s: matrix[i].tolist() for i, s in enumerate(STYLES) if rows[i]},
        }


def find_judge(
    folder: Path | None,
    segmenter: Path | None,
    styles: Path | None,
    taxonomy: Taxonomy | None = None,
    features: ImageFeatures | None = None,
) -> QualityJudge:
    """Return the judge in a folder that ``dgkit train judge`` wrote; ``segmenter`` and ``styles`` replace its files.

    ``taxonomy`` are the classes of the images to judge, by default those that the segmenter states. If the segmenter
    states others and has a table from them, the labels are read as its classes.

    Raises InputError, naming the command that trains a judge, if there is none.
    """
    if segmenter is None:
        if folder is None:
            raise InputError("a judge is needed: --judge DIR or --segmenter FILE.onnx", TRAIN_HINT)
        segmenter = folder / "segmenter.onnx"
        if not segmenter.is_file():
            raise InputError(f"no judge in {folder}: segmenter.onnx is missing", TRAIN_HINT)
    if styles is None and folder is not None and (folder / "styles.onnx").is_file():
        styles = folder / "styles.onnx"
    network = open_onnx_segmenter(segmenter, _common_classes(segmenter, taxonomy))
    return QualityJudge(network, StyleClassifier(styles) if styles else None, features)


def _common_classes(segmenter: Path, taxonomy: Taxonomy | None) -> Taxonomy | None:
    """Return the classes that the side-car of a segmenter states if labels of ``taxonomy`` can be read as them."""
    stated = read_segmenter_sidecar(segmenter).taxonomy
    found = None if stated is None else find_taxonomy(stated)
    return found if found and taxonomy and taxonomy.name in found.map else taxonomy


def measure_quality(
    out: Path | str, judge: QualityJudge, reference: str | None = None, *, progress: Progress = ignore
) -> dict[str, Any]:
    """Measure the images in ``out``, write ``out/quality.json`` and return its content. Shares are 0..1.

    ``reference`` is a folder, a role of the city (:class:`~dgkit.evaluation.quality.renders.RoleRenders`) or "paired"
    (:class:`~dgkit.evaluation.quality.renders.PairedRenders`). ``progress`` gets the stages "measure" and "reference".
    Raises InputError for a folder that cannot be measured, UsageError for an unknown role, EngineError if a network
    fails.
    """
    out = Path(out)
    taxonomy = judge.segmenter.taxonomy
    scenes = list_scenes(out, refuse_unlabelled=True, taxonomy=taxonomy)
    found = measure((files.read() for files in scenes), len(scenes), judge, within(progress, "measure"))
    result: dict[str, Any] = {"out": str(out), "judge": judge.to_json(), **found.to_json(), "worst": _worst(found)}
    if reference is not None:
        real = measure(*_reference(reference, out, taxonomy), judge, within(progress, "reference"))
        name = PAIRED if is_paired(reference) else reference
        distances = compare(found, real) | {"feature_space": judge.feature_space}
        result["reference"] = {"what": name, **real.to_json(), **distances}
    result["provenance"] = record()
    atomic_write(out / "quality.json", json_bytes(result))
    return result


def measure(
    images: Iterable[LabelledImage], total: int, judge: QualityJudge, advance: Advance | None = None
) -> Measurement:
    """Judge all of ``images``, ``total`` in number."""
    found = Measurement(judge.segmenter.taxonomy)
    for done, image in enumerate(images, 1):
        found.add(image, judge)
        if advance is not None:
            advance(done, total)
    return found


def compare(found: Measurement, real: Measurement) -> dict[str, Any]:
    """Return the agreement relative to the reference ``real``, and distances between the features of both.

    ``relative_miou`` is over the classes that occur in both.
    """
    ious = np.stack([class_iou(m.matrix) for m in (found, real)])
    own, theirs = ious[:, np.isfinite(ious).all(0)].mean(1) if np.isfinite(ious).all(0).any() else (0.0, 0.0)
    accuracy = pixel_accuracy(real.matrix)
    facts: dict[str, Any] = {
        "relative_miou": float(own / theirs) if theirs else None,
        "relative_pixel_accuracy": pixel_accuracy(found.matrix) / accuracy if accuracy else None,
        "frechet_distance": None,
        "kernel_distance": None,
        "feature_space": FEATURE_SPACE,
    }
    if min(len(found.features), len(real.features)) > 1:
        features = np.stack(real.features), np.stack(found.features)
        facts |= {"frechet_distance": frechet_distance(*features), "kernel_distance": kernel_distance(*features)}
    return facts


def _reference(reference: str, out: Path, taxonomy: Taxonomy) -> tuple[Iterable[LabelledImage], int]:
    if Path(reference).is_dir():
        others = list_scenes(reference, refuse_unlabelled=True, taxonomy=taxonomy)
        return (files.read() for files in others), len(others)
    stated = folder_taxonomy(out) or CITYSCAPES19
    if not taxonomy.is_default and (stated == taxonomy or CITYSCAPES19.name not in taxonomy.map):
        raise mixed(taxonomy, CITYSCAPES19, f"the renders of reference {reference!r}")
    scenes = list_scenes(out, refuse_unlabelled=True, taxonomy=CITYSCAPES19)
    height, width = scenes[0].read().label.shape
    renders = render_reference(reference, city_sources(out, scenes), (height, width))
    return _with_classes(renders, taxonomy), len(renders)


def _with_classes(images: Iterable[LabelledImage], taxonomy: Taxonomy) -> Iterator[LabelledImage]:
    """Return images of the city with their labels as classes of ``taxonomy``."""
    table = taxonomy.table_from(CITYSCAPES19).astype(np.uint8)
    for image in images:
        yield replace(image, label=table[image.label])


def _worst(found: Measurement, limit: int = 8) -> list[dict[str, Any]]:
    """Return the images with the lowest pixel accuracy."""
    order = np.argsort(np.nan_to_num(found.agreement, nan=1.0), kind="stable")[:limit]
    return [{"id": found.ids[i], "pixel_accuracy": found.agreement[i]} for i in order.tolist()]
