"""The figures of an evaluation as tables: ``report.json``, ``report.csv`` and ``images.csv``."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dgkit.data.pictures import ignores_exif
from dgkit.data.samples import Dataset
from dgkit.data.scores import Absent, class_iou, mean_iou, pixel_accuracy
from dgkit.evaluation.benchmark.eval_config import EvalConfig
from dgkit.evaluation.benchmark.eval_sets import count_bad_files, label_encodings
from dgkit.evaluation.benchmark.image_conditions import Groups, folder_conditions
from dgkit.evaluation.benchmark.metric_sums import HEADINGS, by_class, known_share, metric_scores
from dgkit.evaluation.benchmark.protocols import AVERAGES
from dgkit.evaluation.benchmark.score_sets import SetScores
from dgkit.provenance import record
from dgkit.segmenters.base import Segmenter
from dgkit.taxonomies import Taxonomy


def build_report(segmenter: Segmenter, config: EvalConfig, found: SetScores) -> dict[str, Any]:
    """Return the content of ``report.json``."""
    protocol = config.resolved_protocol()
    sets = {dataset.name: _set_report(config, found, dataset, segmenter.taxonomy) for dataset in found.sets}
    means = {
        name: float(np.mean([sets[member]["miou"] for member in members]))
        for name, members in AVERAGES.items()
        if all(member in sets and sets[member]["miou"] is not None for member in members)
    }
    return {
        "segmenter": {**segmenter.facts(), "notes": list(segmenter.notes)},
        **({} if segmenter.taxonomy.is_default else {"taxonomy": segmenter.taxonomy.document()}),
        "protocol": protocol.to_json(),
        "test_time_augmentation": "mirrored, probabilities averaged" if config.tta else None,
        **({"exif": "ignore"} if ignores_exif() else {}),
        "averages": means,
        "sets": sets,
        "bad_files": {
            "policy": "refuse" if config.strict else "skip",
            "skipped": [
                {"set": name, "kind": kind, "count": n} for (name, kind), n in count_bad_files(found.bad_files).items()
            ],
            "files": [file.to_json() for file in found.bad_files],
        },
        "run": {
            "scored": found.scored_now,
            "continued": len(found.matrices) - found.scored_now,
            "seconds": round(found.seconds, 3),
            "images_per_second": round(found.scored_now / found.seconds, 3)
            if found.scored_now and found.seconds
            else None,
        },
        "config": config.model_dump(mode="json"),
        "provenance": record(),
    }


def _set_report(config: EvalConfig, found: SetScores, dataset: Dataset, taxonomy: Taxonomy) -> dict[str, Any]:
    protocol, samples = config.resolved_protocol(), found.samples[dataset.name]
    ids = [sample.id for sample in samples]
    matrix, groups = found.total(dataset.name, ids), condition_groups(found, dataset.name)
    parts = {name: {"images": len(ids), **_scores(config, found, dataset.name, ids)} for name, ids in groups.items()}
    return {
        "folder": str(dataset.root),
        "split": dataset.split,
        "labels": label_encodings(dataset),
        "images": len(samples),
        "scale": list(protocol.scale_of(dataset.name)),
        "halved": dataset.name in protocol.halved,
        **_scores(config, found, dataset.name, ids),
        "conditions": parts,
        "confusion": matrix[:, : taxonomy.size].tolist(),
        **({"predicted_void": void} if any(void := matrix[:, taxonomy.size].tolist()) else {}),
    }


def condition_groups(found: SetScores, dataset: str) -> Groups:
    """Return the ids of the images of each condition that is reported: those of folders if there are several."""
    folders = folder_conditions(found.samples[dataset])
    return {**(folders if len(folders) > 1 else {}), **found.conditions.get(dataset, {})}


def _scores(config: EvalConfig, found: SetScores, dataset: str, ids: Sequence[str]) -> dict[str, Any]:
    matrix, taxonomy, absent = found.total(dataset, ids), found.sets[0].taxonomy, config.absent
    iou = class_iou(matrix, absent)
    return {
        "miou": known_share(mean_iou(matrix, absent=absent)),
        "pixel_accuracy": known_share(pixel_accuracy(matrix)),
        **({} if config.classes == "all" else {"classes": int(np.isfinite(iou).sum())}),
        **metric_scores(config.metrics, matrix, found.total_sums(dataset, ids), taxonomy, absent),
        "iou": by_class(iou, taxonomy),
    }


def class_names(result: dict[str, Any]) -> list[str]:
    """Return the names of the classes of a report, in the order of their numbers."""
    return list(next(iter(result["sets"].values()))["iou"])


def table_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per data set, condition and mean: name, images, miou, pixel_accuracy and iou (by class)."""
    rows = []
    for name, scores in result["sets"].items():
        rows.append({"name": name, **scores})
        rows += [{"name": f"{name} {condition}", **part} for condition, part in scores["conditions"].items()]
    for name, value in result["averages"].items():
        images = sum(result["sets"][member]["images"] for member in AVERAGES[name])
        rows.append({"name": name, "images": images, "miou": value, "pixel_accuracy": None, "iou": {}})
    return rows


def figure_rows(result: dict[str, Any]) -> dict[str, str]:
    """Return the heading of each figure of a report other than the mIoU and class IoUs that its tables show, by key."""
    shown = list(result["sets"].values())
    found = {"classes": "classes in the labels"} if any("classes" in scores for scores in shown) else {}
    return found | {key: text for key, text in HEADINGS.items() if any(key in scores for scores in shown)}


def report_csv(result: dict[str, Any]) -> bytes:
    """Return ``report.csv``: percent with two decimals, as papers print it, and protocol and segmenter in each row."""
    stream = io.StringIO()
    facts = result["segmenter"]
    made_with = (result["protocol"]["name"], "yes" if result["test_time_augmentation"] else "no", facts["engine"],
                 facts["dtype"], facts["sha256"][:16], result["provenance"]["commit"] or "")  # fmt: skip
    names, figures = class_names(result), figure_rows(result)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["set", "images", "mIoU", "pixel accuracy", *figures.values(), *names, "protocol", "tta", "engine",
                     "dtype", "segmenter", "commit"])  # fmt: skip
    for row in table_rows(result):
        values = [row["miou"], row["pixel_accuracy"], *(row.get(key) for key in figures),
                  *(row["iou"].get(name) for name in names)]  # fmt: skip
        cells = ["" if value is None else figure(value) for value in values]
        writer.writerow([row["name"], row["images"], *cells, *made_with])
    return stream.getvalue().encode("utf-8", "backslashreplace")


def images_csv(found: SetScores, absent: Absent = "zero") -> bytes:
    """Return ``images.csv``: mIoU and pixel accuracy of each image in percent."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["set", "id", "condition", "mIoU", "pixel accuracy"])
    for name, samples in found.samples.items():
        for sample in samples:
            matrix = found.matrices[name, sample.id]
            values = (mean_iou(matrix, absent=absent), pixel_accuracy(matrix))
            cells = ["" if math.isnan(value) else f"{100 * value:.2f}" for value in values]
            writer.writerow([name, sample.id, sample.condition, *cells])
    return stream.getvalue().encode("utf-8", "backslashreplace")


def figure(value: float | int | None) -> str:
    """Return a count as it is, and a share as :func:`percent`."""
    return str(value) if isinstance(value, int) else percent(value)


def percent(share: float | None) -> str:
    """Return ``51.23`` for 0.51234 and ``-`` for None."""
    return "-" if share is None else f"{100 * share:.2f}"
