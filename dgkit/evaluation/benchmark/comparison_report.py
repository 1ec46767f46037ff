"""The figures of a comparison: ``report.json``, ``report.csv`` and ``images.csv``."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dgkit.data.samples import Sample
from dgkit.evaluation.benchmark.eval_config import EvalConfig
from dgkit.evaluation.benchmark.metric_sums import CLASS_KEYS, HEADINGS
from dgkit.evaluation.benchmark.paired_bootstrap import LEAST, LEVEL, compare_scores
from dgkit.evaluation.benchmark.protocols import AVERAGES
from dgkit.evaluation.benchmark.score_report import condition_groups, figure, percent, table_rows
from dgkit.evaluation.benchmark.score_sets import SetScores
from dgkit.taxonomies import Taxonomy

Stratum = tuple[str, Sequence[str]]
"""A data set and the ids of some of its images."""
FEW = f"Fewer than {LEAST} images have no interval."
_SCORES = ("miou", "pixel_accuracy", "classes", *HEADINGS, "calibration_bins", "iou", *CLASS_KEYS)
_SHARED = ("protocol", "test_time_augmentation", "exif", "taxonomy", "bad_files", "provenance")


def comparison_report(
    reports: Mapping[str, dict[str, Any]], scores: Mapping[str, SetScores], config: EvalConfig
) -> dict[str, Any]:
    """Return the content of ``report.json`` from the reports and scores of each segmenter, the first one first."""
    first = next(iter(reports))
    rows = {name: {row["name"]: row for row in table_rows(report)} for name, report in reports.items()}
    strata, taxonomy = _strata(scores[first], rows[first]), scores[first].sets[0].taxonomy
    return {
        "segmenters": {name: report["segmenter"] for name, report in reports.items()},
        "reference": first,
        **{key: reports[first][key] for key in _SHARED if key in reports[first]},
        "bootstrap": {
            "resamples": config.resamples,
            "seed": config.seed,
            "interval": LEVEL,
            "method": "images drawn with replacement, the same for all segmenters; percentile interval; two-sided p",
        },
        "sets": {
            name: {key: report[key] for key in ("folder", "split", "labels", "images", "scale", "halved")}
            for name, report in reports[first]["sets"].items()
        },
        "groups": {
            group: {
                "images": rows[first][group]["images"],
                "scores": {name: _scores(found[group]) for name, found in rows.items()},
                "differences": _differences(parts, scores, config, taxonomy),
            }
            for group, parts in strata.items()
        },
        "runs": {name: report["run"] for name, report in reports.items()},
        "config": config.model_dump(mode="json"),
    }


def _strata(scores: SetScores, rows: Mapping[str, Any]) -> dict[str, list[Stratum]]:
    """Return the images of each row of the tables: of a data set, of one of its conditions, or of several sets."""
    whole: dict[str, Stratum] = {name: (name, [s.id for s in samples]) for name, samples in scores.samples.items()}
    found: dict[str, list[Stratum]] = {}
    for name, stratum in whole.items():
        found[name] = [stratum]
        found |= {f"{name} {group}": [(name, ids)] for group, ids in condition_groups(scores, name).items()}
    return found | {name: [whole[member] for member in AVERAGES[name]] for name in rows if name in AVERAGES}


def _scores(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in _SCORES if key in row}


def _differences(
    strata: Sequence[Stratum], scores: Mapping[str, SetScores], config: EvalConfig, taxonomy: Taxonomy
) -> dict[str, Any]:
    """Return the differences of each segmenter but the first, by name."""
    matrices = [
        [np.stack([one.matrices[dataset, name] for name in ids]) for one in scores.values()] for dataset, ids in strata
    ]
    compared = compare_scores(matrices, config.absent, config.resamples, config.seed)
    return {name: one.to_json(taxonomy.names) for name, one in zip([*scores][1:], compared, strict=True)}


def figure_headings(result: dict[str, Any]) -> dict[str, str]:
    """Return the heading of each figure that the tables show in addition to the mIoU, by key."""
    known = {"classes": "classes in the labels", **HEADINGS}
    shown = [scores for group in result["groups"].values() for scores in group["scores"].values()]
    return {key: text for key, text in known.items() if any(key in scores for scores in shown)}


def signed(share: float | None) -> str:
    """Return a difference in percent points with its sign."""
    return "-" if share is None else f"{round(100 * share, 2) + 0.0:+.2f}"  # no -0.00


def excludes_zero(found: Mapping[str, Any]) -> bool:
    """Return whether zero lies outside of an interval."""
    return found["low"] is not None and not found["low"] <= 0 <= found["high"]


def interval_text(found: Mapping[str, float | None]) -> str:
    """Return the limits of an interval in percent points, or ``-``."""
    return "-" if found["low"] is None else f"{signed(found['low'])} to {signed(found['high'])}"


def p_text(p: float | None) -> str:
    """Return p with three decimals."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def comparison_csv(result: dict[str, Any]) -> bytes:
    """Return ``report.csv``: one row per data set (condition, mean) and segmenter; percent, and points of it."""
    stream, figures = io.StringIO(), figure_headings(result)
    names = [*next(iter(result["groups"].values()))["scores"][result["reference"]]["iou"]]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["set", "segmenter", "images", "mIoU", "difference", "low", "high", "p", "pixel accuracy",
                     *figures.values(), *names, "protocol", "engine", "dtype", "sha256", "commit"])  # fmt: skip
    for group, content in result["groups"].items():
        for name, scores in content["scores"].items():
            miou = content["differences"].get(name, {}).get("miou", {})
            facts = result["segmenters"][name]
            values = [scores["pixel_accuracy"], *(scores.get(key) for key in figures),
                      *(scores["iou"].get(one) for one in names)]  # fmt: skip
            writer.writerow([
                group, name, content["images"], _cell(scores["miou"]),
                *(_cell(miou.get(key)) for key in ("difference", "low", "high")),
                "" if miou.get("p") is None else f"{miou['p']:.4f}", *map(_cell, values), result["protocol"]["name"],
                facts["engine"], facts["dtype"], facts["sha256"][:16], result["provenance"]["commit"] or "",
            ])  # fmt: skip
    return stream.getvalue().encode("utf-8", "backslashreplace")


def pictures_csv(spreads: Mapping[str, Sequence[tuple[Sample, Sequence[float]]]], names: Sequence[str]) -> bytes:
    """Return ``images.csv``: the mIoU of each image by each segmenter in percent, those that differ most first."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["set", "id", "condition", *names])
    for dataset, rows in spreads.items():
        for sample, scores in rows:
            cells = ["" if math.isnan(score) else percent(score) for score in scores]
            writer.writerow([dataset, sample.id, sample.condition, *cells])
    return stream.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: float | int | None) -> str:
    return "" if value is None else figure(value)
