"""The report of an evaluation: ``report.json``, ``report.csv``, ``images.csv``, pictures and a gallery."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.config import dump_config
from dgkit.data.datasets import Dataset
from dgkit.data.scores import class_iou, mean_iou, pixel_accuracy
from dgkit.evaluation.benchmark.eval_config import EvalConfig
from dgkit.evaluation.benchmark.evaluate import Progress, Scored, items, score_sets, workers
from dgkit.evaluation.benchmark.gallery import Card, confusion_picture, gallery, picture_strip
from dgkit.evaluation.benchmark.inference import predict
from dgkit.evaluation.benchmark.protocols import AVERAGES
from dgkit.evaluation.benchmark.sets import BadSample, counts, label_systems, read_sample
from dgkit.files import atomic_path, atomic_write
from dgkit.labels import CLASSES
from dgkit.provenance import record
from dgkit.segmenters.base import Segmenter


def evaluate(
    segmenter: Segmenter, config: EvalConfig, out: Path | str, progress: Progress | None = None
) -> dict[str, Any]:
    """Score ``segmenter`` (not opened) as ``config`` says and write the reports into ``out``; returns ``report.json``.

    IoU values are shares 0..1, not rounded, null where a class has none. Raises what :func:`score_sets` raises.
    """
    out = Path(out)
    with segmenter:
        found = score_sets(segmenter, config, out, progress)
        result = build_report(segmenter, config, found)
        result["files"] = _write(out, config, found, result)
        cards = _cards(segmenter, config, found)
    atomic_write(out / "index.html", gallery(result, cards, out).encode())
    atomic_write(out / "report.json", (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())
    return result


def build_report(segmenter: Segmenter, config: EvalConfig, found: Scored) -> dict[str, Any]:
    """The content of ``report.json``."""
    protocol = config.resolved_protocol()
    sets = {dataset.name: _set_report(config, found, dataset) for dataset in found.sets}
    means = {
        name: float(np.mean([sets[member]["miou"] for member in members]))
        for name, members in AVERAGES.items()
        if all(member in sets and sets[member]["miou"] is not None for member in members)
    }
    return {
        "segmenter": segmenter.facts(),
        "protocol": protocol.to_json(),
        "test_time_augmentation": "mirrored, probabilities averaged" if config.tta else None,
        "averages": means,
        "sets": sets,
        "bad_files": {
            "policy": "refuse" if config.strict else "skip",
            "skipped": [{"set": name, "kind": kind, "count": n} for (name, kind), n in counts(found.problems).items()],
            "files": [problem.to_json() for problem in found.problems],
        },
        "run": {
            "scored": found.now,
            "continued": len(found.matrices) - found.now,
            "seconds": round(found.seconds, 3),
            "images_per_second": round(found.now / found.seconds, 3) if found.now and found.seconds else None,
        },
        "config": config.model_dump(mode="json"),
        "provenance": record(),
    }


def _set_report(config: EvalConfig, found: Scored, dataset: Dataset) -> dict[str, Any]:
    protocol, samples = config.resolved_protocol(), found.samples[dataset.name]
    conditions = sorted({sample.condition for sample in samples if sample.condition})
    matrix = found.total(dataset.name)
    parts = {
        name: {"images": sum(s.condition == name for s in samples), **_scores(found.total(dataset.name, name))}
        for name in (conditions if len(conditions) > 1 else ())
    }
    return {
        "folder": str(dataset.root),
        "split": dataset.split,
        "labels": label_systems(dataset),
        "images": len(samples),
        "scale": list(protocol.scale_of(dataset.name)),
        "halved": dataset.name in protocol.halved,
        **_scores(matrix),
        "conditions": parts,
        "confusion": matrix.tolist(),
    }


def _scores(matrix: np.ndarray) -> dict[str, Any]:
    iou = class_iou(matrix, absent="zero")
    return {
        "miou": _known(mean_iou(matrix, absent="zero")),
        "pixel_accuracy": _known(pixel_accuracy(matrix)),
        "iou": {name: _known(float(value)) for name, value in zip(CLASSES, iou, strict=True)},
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def table_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each set, each condition and each mean: name, images, miou, pixel_accuracy and iou (by class)."""
    rows = []
    for name, scores in result["sets"].items():
        rows.append({"name": name, **scores})
        rows += [{"name": f"{name} {condition}", **part} for condition, part in scores["conditions"].items()]
    for name, value in result["averages"].items():
        images = sum(result["sets"][member]["images"] for member in AVERAGES[name])
        rows.append({"name": name, "images": images, "miou": value, "pixel_accuracy": None, "iou": {}})
    return rows


def _write(out: Path, config: EvalConfig, found: Scored, result: dict[str, Any]) -> list[str]:
    """All reports but ``report.json`` and the gallery; returns their names."""
    atomic_write(out / "config.yaml", dump_config(config).encode())
    atomic_write(out / "report.csv", _csv(result))
    atomic_write(out / "images.csv", _images_csv(found))
    names = ["report.json", "report.csv", "images.csv", "index.html", "config.yaml"]
    for name, scores in result["sets"].items():
        picture = confusion_picture(np.array(scores["confusion"]), f"{name}: mIoU {percent(scores['miou'])}")
        with atomic_path(out / f"confusion-{name}.png") as temporary:
            picture.save(temporary, "PNG")
        names.append(f"confusion-{name}.png")
    return names


def _csv(result: dict[str, Any]) -> bytes:
    """Percent with two decimals, as the papers print them, and what the figures were made with in each row."""
    stream = io.StringIO()
    facts = result["segmenter"]
    made_with = (result["protocol"]["name"], "yes" if result["test_time_augmentation"] else "no", facts["engine"],
                 facts["dtype"], facts["sha256"][:16], result["provenance"]["commit"] or "")  # fmt: skip
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["set", "images", "mIoU", "pixel accuracy", *CLASSES, "protocol", "tta", "engine", "dtype",
                     "segmenter", "commit"])  # fmt: skip
    for row in table_rows(result):
        values = [row["miou"], row["pixel_accuracy"], *(row["iou"].get(name) for name in CLASSES)]
        cells = ["" if value is None else f"{100 * value:.2f}" for value in values]
        writer.writerow([row["name"], row["images"], *cells, *made_with])
    return stream.getvalue().encode()


def _images_csv(found: Scored) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["set", "id", "condition", "mIoU", "pixel accuracy"])
    for name, samples in found.samples.items():
        for sample in samples:
            matrix = found.matrices[name, sample.id]
            values = (mean_iou(matrix, absent="zero"), pixel_accuracy(matrix))
            cells = ["" if math.isnan(value) else f"{100 * value:.2f}" for value in values]
            writer.writerow([name, sample.id, sample.condition, *cells])
    return stream.getvalue().encode()


def _cards(segmenter: Segmenter, config: EvalConfig, found: Scored) -> dict[str, list[Card]]:
    """The worst pictures of each set, predicted once more: predictions are not kept."""
    cards: dict[str, list[Card]] = {}
    for name, samples in found.samples.items():
        scores = {sample.id: mean_iou(found.matrices[name, sample.id], absent="zero") for sample in samples}
        ranked = sorted(samples, key=lambda sample: (math.isnan(scores[sample.id]), scores[sample.id], sample.id))
        worst = [(name, sample) for sample in ranked[: config.worst]]
        read = items(worst, config.resolved_protocol(), min(2, workers(config)), [])
        made = {}
        for item, channels in predict(read, segmenter, config.resolved_protocol(), batch=config.batch, tta=config.tta):
            try:
                image, _ = read_sample(name, item.sample)
            except BadSample:  # gone since it was scored
                continue
            predicted = segmenter.classes[channels.cpu().numpy()]
            title = " ".join(part for part in (item.sample.id, item.sample.condition) if part)
            strip = picture_strip(image, item.label, predicted)
            made[item.sample.id] = Card(title, percent(_known(scores[item.sample.id])), strip)
        cards[name] = [made[sample.id] for _, sample in worst if sample.id in made]
    return cards


def percent(share: float | None) -> str:
    """``51.23`` for 0.51234, ``-`` for none."""
    return "-" if share is None else f"{100 * share:.2f}"
