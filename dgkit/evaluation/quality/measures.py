"""How good a folder of labelled pictures is: does it show what labels and prompts say, and how varied is it?"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.data.generated import LabelledImage, SceneFiles, list_scenes
from dgkit.data.scores import class_iou, confusion, pixel_accuracy, summary
from dgkit.errors import InputError
from dgkit.evaluation.quality.distances import diversity, frechet_distance, kernel_distance
from dgkit.evaluation.quality.renders import render_reference
from dgkit.files import atomic_write
from dgkit.labels import IGNORE, NUM_CLASSES
from dgkit.prompts import STYLE_NAMES, STYLES
from dgkit.provenance import record
from dgkit.segmenters.onnx import OnnxSegmenter, open_onnx_segmenter
from dgkit.segmenters.style_classifier import StyleClassifier

TRAIN_HINT = "dgkit train judge DIR trains a judge; then add --judge DIR"
FEATURE_SPACE = "the judge's segmenter (not Inception: compare only under the same judge)"
Progress = Callable[[str, int, int], None]  # "measure" or "reference", done, total


@dataclass(frozen=True)
class Judge:
    """The networks that measure; ``styles`` None: prompts are not checked."""

    segmenter: OnnxSegmenter
    styles: StyleClassifier | None = None

    def to_json(self) -> dict[str, Any]:
        models = {"segmenter": self.segmenter, "styles": self.styles}
        return {name: {"path": str(m.path), "sha256": m.digest} for name, m in models.items() if m is not None}


@dataclass
class Measurement:
    """What was seen in one set of pictures."""

    matrix: np.ndarray = field(default_factory=lambda: np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64))
    by_style: dict[str, np.ndarray] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)  # pixel accuracy of each picture
    seen: list[tuple[str, str]] = field(default_factory=list)  # style asked for, style recognised
    features: list[np.ndarray] = field(default_factory=list)
    ignored: int = 0
    pixels: int = 0

    def add(self, picture: LabelledImage, judge: Judge) -> None:
        """Judge one picture."""
        predicted = judge.segmenter.predict(picture.image)
        matrix = confusion(picture.label, predicted.label)
        self.matrix += matrix
        self.by_style[picture.style] = self.by_style.get(picture.style, 0) + matrix
        self.ids.append(picture.id)
        self.agreement.append(pixel_accuracy(matrix))
        if judge.styles is not None:
            self.seen.append((picture.style, judge.styles.predict(picture.image)))
        if predicted.features is not None:
            self.features.append(predicted.features)
        self.ignored += int(np.count_nonzero(picture.label == IGNORE))
        self.pixels += picture.label.size

    def to_json(self) -> dict[str, Any]:
        return {
            "images": len(self.ids),
            "ignored_share": self.ignored / max(1, self.pixels),
            "agreement": summary(self.matrix),
            "agreement_by_style": {
                style: {key: summary(matrix)[key] for key in ("miou", "small_miou", "pixel_accuracy")}
                for style, matrix in sorted(self.by_style.items())
            },
            "style": self._style(),
            "diversity": diversity(np.stack(self.features)) if len(self.features) > 1 else None,
        }

    def _style(self) -> dict[str, Any] | None:
        """Accuracy over the pictures that were asked for in a style; None where there are none."""
        asked = [(wanted, found) for wanted, found in self.seen if wanted in STYLES]
        if not asked:
            return None
        matrix = np.zeros((len(STYLES), len(STYLE_NAMES)), int)
        for wanted, found in asked:
            matrix[STYLES.index(wanted), STYLE_NAMES.index(found)] += 1
        rows = matrix.sum(1)
        return {
            "images": len(asked),
            "accuracy": float(np.trace(matrix) / len(asked)),
            "by_style": {s: float(matrix[i, i] / rows[i]) for i, s in enumerate(STYLES) if rows[i]},
            "recognised_as": list(STYLE_NAMES),
            "confusion": {s: matrix[i].tolist() for i, s in enumerate(STYLES) if rows[i]},
        }


def find_judge(folder: Path | None, segmenter: Path | None, styles: Path | None) -> Judge:
    """The judge in a folder that ``dgkit train judge`` wrote; single files replace its own.

    Raises InputError, naming the command that trains a judge, where there is none.
    """
    if folder is not None and not (folder / "segmenter.onnx").is_file() and segmenter is None:
        raise InputError(f"no judge in {folder}: segmenter.onnx is missing", TRAIN_HINT)
    if segmenter is None and folder is None:
        raise InputError("no judge is given", TRAIN_HINT)
    own = folder / "styles.onnx" if folder is not None else None
    styles = styles or (own if own is not None and own.is_file() else None)
    chosen = segmenter if segmenter is not None else Path(str(folder)) / "segmenter.onnx"
    return Judge(open_onnx_segmenter(chosen), StyleClassifier(styles) if styles else None)


def measure_quality(
    out: Path | str, judge: Judge, reference: str | None = None, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure the pictures in ``out`` and write ``out/quality.json``; returns its content.

    ``reference`` is a folder, a role of the city (:class:`~dgkit.evaluation.quality.renders.Like`) or "twins"
    (:class:`~dgkit.evaluation.quality.renders.Twins`). Shares are 0..1.
    Raises InputError for a folder that cannot be measured, UsageError for an unknown role, EngineError where a
    network fails.
    """
    out = Path(out)
    entries = list_scenes(out, refuse_unlabelled=True)
    found = measure((entry.read() for entry in entries), len(entries), judge, "measure", progress)
    result: dict[str, Any] = {"out": str(out), "judge": judge.to_json(), **found.to_json(), "worst": _worst(found)}
    if reference is not None:
        real = measure(*_reference(reference, entries), judge, "reference", progress)
        result["reference"] = {"what": reference, **real.to_json(), **compare(found, real)}
    result["provenance"] = record()
    atomic_write(out / "quality.json", (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())
    return result


def measure(
    pictures: Iterable[LabelledImage], total: int, judge: Judge, stage: str, progress: Progress | None = None
) -> Measurement:
    """Judge every picture."""
    found = Measurement()
    for done, picture in enumerate(pictures, 1):
        found.add(picture, judge)
        if progress:
            progress(stage, done, total)
    return found


def compare(found: Measurement, real: Measurement) -> dict[str, Any]:
    """Agreement relative to the reference, and distances between the two sets of features.

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


def _reference(reference: str, entries: Sequence[SceneFiles]) -> tuple[Iterable[LabelledImage], int]:
    if Path(reference).is_dir():
        others = list_scenes(reference, refuse_unlabelled=True)
        return (entry.read() for entry in others), len(others)
    height, width = entries[0].read().label.shape
    renders = render_reference(reference, entries, (height, width))
    return renders, len(renders)


def _worst(found: Measurement, limit: int = 8) -> list[dict[str, Any]]:
    """The pictures with the lowest pixel accuracy."""
    order = np.argsort(np.nan_to_num(found.agreement, nan=1.0), kind="stable")[:limit]
    return [{"id": found.ids[i], "pixel_accuracy": found.agreement[i]} for i in order.tolist()]
