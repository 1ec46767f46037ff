"""``dgkit eval A B``: score several segmenters on the same pictures and compare them with the first one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.data.samples import Sample
from dgkit.data.scores import mean_iou
from dgkit.errors import InputError, OutputError
from dgkit.evaluation.benchmark.comparison_page import comparison_page
from dgkit.evaluation.benchmark.comparison_report import comparison_csv, comparison_report, pictures_csv
from dgkit.evaluation.benchmark.comparison_strip import ComparedScene, read_scene, shrunk
from dgkit.evaluation.benchmark.eval_config import EvalConfig
from dgkit.evaluation.benchmark.evaluate import predict_again, score_and_report
from dgkit.evaluation.benchmark.score_sets import SetScores
from dgkit.files import atomic_write, is_hidden, json_bytes, output_error
from dgkit.locks import sole_writer
from dgkit.progress import Notify, Progress, ignore
from dgkit.segmenters.base import Segmenter
from dgkit.taxonomies import mixed

FOLDER = "segmenters"  # with the reports of each segmenter, by its name


@dataclass(frozen=True)
class Evaluated:
    """A segmenter, its ``report.json`` and its scores of each image."""

    segmenter: Segmenter
    report: dict[str, Any]
    scores: SetScores


def compare(
    segmenters: Mapping[str, Segmenter],
    config: EvalConfig,
    out: Path | str,
    progress: Progress = ignore,
    notify: Notify | None = None,
) -> dict[str, Any]:
    """Score ``segmenters``, by name, write the reports into ``out`` and return the content of ``report.json``.

    Each segmenter gets the folder ``segmenters/NAME`` in ``out``, as :func:`evaluate` writes it, from which a run
    resumes. Raises InputError for segmenters of different classes, OutputError if ``out`` holds other files, and what
    :func:`~dgkit.evaluation.benchmark.score_sets.score_sets` raises.
    """
    out = Path(out)
    _refuse_other_classes(segmenters)
    try:
        out.mkdir(parents=True, exist_ok=True)
        _refuse_other_files(out)
        with sole_writer(out):
            return _compare(segmenters, config, out, progress, notify)
    except OSError as error:
        raise output_error(out, error) from error


def _compare(
    segmenters: Mapping[str, Segmenter], config: EvalConfig, out: Path, progress: Progress, notify: Notify | None
) -> dict[str, Any]:
    found: dict[str, Evaluated] = {}
    for number, (name, segmenter) in enumerate(segmenters.items()):
        advance = _share(progress, number, len(segmenters))
        own = _own_settings(config, name)
        report, scores = score_and_report(segmenter, own, out / FOLDER / name, advance, None if number else notify)
        found[name] = Evaluated(segmenter, report, scores)
    _refuse_other_pictures(found)
    result = comparison_report(
        {name: one.report for name, one in found.items()}, {name: one.scores for name, one in found.items()}, config
    )
    spreads = picture_spreads(found, config)
    scenes = _predict_scenes(found, config, spreads)
    atomic_write(out / "report.csv", comparison_csv(result))
    atomic_write(out / "images.csv", pictures_csv(spreads, [*found]))
    atomic_write(out / "index.html", comparison_page(result, scenes).encode("utf-8", "backslashreplace"))
    atomic_write(out / "report.json", json_bytes(result))
    return result


def picture_spreads(found: Mapping[str, Evaluated], config: EvalConfig) -> dict[str, list[tuple[Sample, list[float]]]]:
    """Return the samples of each data set with the mIoU by each segmenter, those that differ most first."""
    first = next(iter(found.values())).scores
    spreads = {}
    for name, samples in first.samples.items():
        rows = []
        for sample in samples:
            matrices = (one.scores.matrices[name, sample.id] for one in found.values())
            rows.append((sample, [mean_iou(matrix, absent=config.absent) for matrix in matrices]))
        spreads[name] = sorted(rows, key=lambda row: (-_spread(row[1]), row[0].id))
    return spreads


def _spread(scores: list[float]) -> float:
    """Return the largest difference between two segmenters, -1 if nothing was scored."""
    known = [score for score in scores if np.isfinite(score)]
    return max(known) - min(known) if known else -1.0


def _predict_scenes(
    found: Mapping[str, Evaluated], config: EvalConfig, spreads: Mapping[str, list[tuple[Sample, list[float]]]]
) -> dict[str, list[ComparedScene]]:
    """Return the pictures that the page shows of each data set; they are predicted again, as nothing is kept."""
    scenes: dict[tuple[str, str], ComparedScene] = {}
    for name, rows in spreads.items():
        for sample, scores in rows[: config.worst]:
            scene = read_scene(name, sample, scores, config.resolved_protocol())
            if scene is not None:
                scenes[name, sample.id] = scene
    wanted = [(name, scene.files) for (name, _), scene in scenes.items()]
    for one in found.values():
        with one.segmenter:
            for read, predicted in predict_again(one.segmenter, config, wanted):
                kept = scenes[read.dataset, read.files.id]
                kept.predictions.append(shrunk(predicted, kept.label.shape))
    complete = {key: scene for key, scene in scenes.items() if len(scene.predictions) == len(found)}
    return {name: [scene for key, scene in complete.items() if key[0] == name] for name in spreads}


def _refuse_other_classes(segmenters: Mapping[str, Segmenter]) -> None:
    first = next(iter(segmenters.values())).taxonomy
    for name, segmenter in segmenters.items():
        if segmenter.taxonomy != first:
            raise mixed(first, segmenter.taxonomy, f"the segmenter {name}")


def _refuse_other_files(out: Path) -> None:
    held = sorted(entry.name for entry in out.iterdir() if not is_hidden(entry.name))
    if held and FOLDER not in held:
        raise OutputError(
            f"{out} holds other files than a comparison ({', '.join(held[:3])})",
            "choose a new or empty folder for --out",
        )


def _refuse_other_pictures(found: Mapping[str, Evaluated]) -> None:
    """Raise InputError if a file changed or vanished between two segmenters."""
    first, *others = ([*one.scores.matrices] for one in found.values())
    for name, keys in zip([*found][1:], others, strict=True):
        differing = {*first} ^ {*keys}
        if differing:
            dataset, sample = min(differing)
            raise InputError(
                f"{dataset} changed during the run: {sample} was not scored by both {next(iter(found))} and {name}",
                "run the same command again",
            )


def _own_settings(config: EvalConfig, name: str) -> EvalConfig:
    """Return the settings with a folder for predictions of the segmenter's own."""
    if config.save_predictions is None:
        return config
    return config.model_copy(update={"save_predictions": config.save_predictions / name})


def _share(progress: Progress, number: int, count: int) -> Progress:
    """Return a callback for the segmenter ``number`` of ``count``, each of which has the same number of pictures."""

    def report(stage: str, done: float, total: float, note: str = "") -> None:
        progress(stage, number * total + done, count * total, note)

    return report
