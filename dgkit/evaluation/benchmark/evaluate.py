"""``dgkit eval``: score a segmenter on several data sets and write one folder of reports."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.config import dump_config
from dgkit.data.samples import Sample
from dgkit.data.scores import mean_iou
from dgkit.evaluation.benchmark.eval_config import EvalConfig
from dgkit.evaluation.benchmark.eval_sets import BadSample, EvalSample, read_sample
from dgkit.evaluation.benchmark.gallery import Card, confusion_picture, gallery, picture_strip
from dgkit.evaluation.benchmark.inference import predict
from dgkit.evaluation.benchmark.score_report import build_report, images_csv, percent, report_csv
from dgkit.evaluation.benchmark.score_sets import SetScores, read_samples, score_sets, worker_count
from dgkit.files import atomic_path, atomic_write, json_bytes
from dgkit.progress import Notify, Progress, ignore
from dgkit.segmenters.base import Segmenter


def evaluate(
    segmenter: Segmenter,
    config: EvalConfig,
    out: Path | str,
    progress: Progress = ignore,
    notify: Notify | None = None,
) -> dict[str, Any]:
    """Score ``segmenter``, write the reports into ``out`` and return the content of ``report.json``.

    ``segmenter`` is opened and closed here. IoU values are shares 0..1, not rounded, None for a class without one.
    Raises what :func:`~dgkit.evaluation.benchmark.score_sets.score_sets` raises.
    """
    return score_and_report(segmenter, config, Path(out), progress, notify)[0]


def score_and_report(
    segmenter: Segmenter, config: EvalConfig, out: Path, progress: Progress, notify: Notify | None
) -> tuple[dict[str, Any], SetScores]:
    """Do what :func:`evaluate` does; return the scores of each image too."""
    with segmenter:
        found = score_sets(segmenter, config, out, progress, notify)
        result = build_report(segmenter, config, found)
        result["files"] = _write_tables(out, config, found, result)
        cards = {name: _worst_cards(segmenter, config, found, name) for name in found.samples}
    atomic_write(out / "index.html", gallery(result, cards, out).encode("utf-8", "backslashreplace"))
    atomic_write(out / "report.json", json_bytes(result))
    return result, found


def _write_tables(out: Path, config: EvalConfig, found: SetScores, result: dict[str, Any]) -> list[str]:
    """Write settings, tables and confusion matrices; return the names of all reports."""
    atomic_write(out / "config.yaml", dump_config(config).encode())
    atomic_write(out / "report.csv", report_csv(result))
    atomic_write(out / "images.csv", images_csv(found, config.absent))
    names = ["report.json", "report.csv", "images.csv", "index.html", "config.yaml"]
    for name, scores in result["sets"].items():
        picture = confusion_picture(
            np.array(scores["confusion"]), f"{name}: mIoU {percent(scores['miou'])}", list(scores["iou"])
        )
        with atomic_path(out / f"confusion-{name}.png") as temporary:
            picture.save(temporary, "PNG")
        names.append(f"confusion-{name}.png")
    return names


def _worst_cards(segmenter: Segmenter, config: EvalConfig, found: SetScores, name: str) -> list[Card]:
    """Return the images of data set ``name`` with the lowest mIoU; they are predicted again, as nothing is kept."""
    scores = {s.id: mean_iou(found.matrices[name, s.id], absent=config.absent) for s in found.samples[name]}
    ranked = sorted(
        found.samples[name], key=lambda sample: (math.isnan(scores[sample.id]), scores[sample.id], sample.id)
    )
    worst = [(name, sample) for sample in ranked[: config.worst]]
    cards = {}
    for sample, predicted in predict_again(segmenter, config, worst):
        files = sample.files
        try:
            image, _ = read_sample(name, files)
        except BadSample:  # removed since it was scored
            continue
        strip = picture_strip(image, sample.label, predicted, segmenter.taxonomy)
        title = f"{files.id} {files.condition}" if files.condition else files.id
        score = scores[files.id]
        cards[files.id] = Card(title, percent(score if math.isfinite(score) else None), strip)
    return [cards[sample.id] for _, sample in worst if sample.id in cards]


def predict_again(
    segmenter: Segmenter, config: EvalConfig, wanted: list[tuple[str, Sample]]
) -> Iterator[tuple[EvalSample, np.ndarray]]:
    """Yield samples, given with the name of their data set, with their prediction, uint8 [H,W] train ids.

    Those that can no longer be read are left out.
    """
    protocol = config.resolved_protocol()
    samples = read_samples(wanted, protocol, min(2, worker_count(config)), [])
    for sample, channels in predict(samples, segmenter, protocol, batch=config.batch, tta=config.tta):
        yield sample, segmenter.classes[channels().cpu().numpy()]
