"""Score a segmenter on data sets, image by image: confusion matrices, and a journal from which a run resumes."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dgkit.data.labelmap import write_label
from dgkit.data.samples import Dataset, Sample
from dgkit.data.scores import confusion
from dgkit.errors import InputError, OutputError
from dgkit.evaluation.benchmark.confidence_bins import ConfidenceWatch, refuse_numbers
from dgkit.evaluation.benchmark.eval_config import METRICS, EvalConfig
from dgkit.evaluation.benchmark.eval_sets import (
    BadFile,
    BadSample,
    EvalSample,
    check_dataset,
    find_sets,
    read_eval_sample,
    refuse_bad_files,
)
from dgkit.evaluation.benchmark.image_conditions import Groups, find_conditions
from dgkit.evaluation.benchmark.inference import map_ahead, predict
from dgkit.evaluation.benchmark.metric_sums import SUMMED, Sums, measure_image
from dgkit.evaluation.benchmark.protocols import Protocol
from dgkit.evaluation.benchmark.score_journal import JOURNAL, ScoreJournal
from dgkit.files import is_hidden, output_error
from dgkit.locks import sole_writer
from dgkit.progress import Notify, Progress, ignore
from dgkit.resources import usable_cores
from dgkit.segmenters.base import Segmenter


@dataclass
class SetScores:
    """Confusion matrices of all good images, and the files that could not be scored.

    ``matrices``: int64 [K,K+1] by data set and id; rows are labels, the last column counts pixels of no class.
    ``sums``: those of the metrics that need more. ``conditions``: those that files of a data set state, if wanted.
    ``scored_now`` of the images were scored by this run, in ``seconds`` of wall time; the others come from an earlier
    run.
    """

    sets: list[Dataset]
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    bad_files: list[BadFile] = field(default_factory=list)
    matrices: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    scored_now: int = 0
    seconds: float = 0.0
    sums: dict[tuple[str, str], Sums] = field(default_factory=dict)
    conditions: dict[str, Groups] = field(default_factory=dict)

    def total(self, dataset: str, ids: Iterable[str] | None = None) -> np.ndarray:
        """Return the sum of the matrices, int64 [K,K+1], over images of a data set, by default all."""
        taxonomy = self.sets[0].taxonomy
        total = np.zeros((taxonomy.size, taxonomy.channels), np.int64)
        for name in (sample.id for sample in self.samples[dataset]) if ids is None else ids:
            total += self.matrices[dataset, name]
        return total

    def total_sums(self, dataset: str, ids: Iterable[str]) -> Sums:
        """Return the totals of the other sums over images of a data set, of which there is at least one."""
        parts = [self.sums[dataset, name] for name in ids]
        return {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]}


def score_sets(
    segmenter: Segmenter, config: EvalConfig, out: Path, progress: Progress = ignore, notify: Notify | None = None
) -> SetScores:
    """Score every image of ``config.on`` that ``out`` does not hold a score of; ``segmenter`` must be open.

    ``progress`` gets the stages "check" (data sets) and "score" (images), ``notify`` a line about a split other than
    the default one. Raises UsageError for wrong settings; InputError for sets without label maps, for bad files if
    ``config.strict``, listing all of them, and if no image of a set is left; OutputError if ``out`` holds other scores,
    cannot be written or is in use; EngineError.
    """
    protocol = config.resolved_protocol()
    if "calibration" in config.metrics:
        refuse_numbers(segmenter)
    found = SetScores(
        find_sets(config.on, config.split, "split" not in config.model_fields_set, notify, segmenter.taxonomy)
    )
    for number, dataset in enumerate(found.sets):
        progress("check", number, len(found.sets))
        found.samples[dataset.name], bad_files = check_dataset(dataset, worker_count(config))
        found.bad_files += bad_files
    progress("check", len(found.sets), len(found.sets))
    if config.strict:
        refuse_bad_files(found.bad_files)
    if "conditions" in config.metrics:
        found.conditions = find_conditions(found.sets, found.samples, notify, required=config.metrics != METRICS)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with sole_writer(out):
            _resume(segmenter, config, protocol, out, found, progress)
    except OSError as error:
        raise output_error(out, error) from error
    return found


def read_samples(
    samples: Iterable[tuple[str, Sample]], protocol: Protocol, threads: int, bad_files: list[BadFile]
) -> Iterator[EvalSample]:
    """Yield samples, given with the name of their data set, read and resized in parallel.

    Samples that cannot be read are appended to ``bad_files`` instead.
    """

    def read(pair: tuple[str, Sample]) -> EvalSample | BadFile:
        try:
            return read_eval_sample(*pair, protocol)
        except BadSample as error:
            return error.bad_file

    for found in map_ahead(read, samples, threads):
        if isinstance(found, BadFile):
            bad_files.append(found)
        else:
            yield found


def worker_count(config: EvalConfig) -> int:
    """Return the number of threads that read images."""
    return config.workers or len(usable_cores())


def _prediction_path(folder: Path, dataset: str, sample: Sample) -> Path:
    return folder / dataset / f"{sample.id}.png"


def _resume(
    segmenter: Segmenter, config: EvalConfig, protocol: Protocol, out: Path, found: SetScores, progress: Progress
) -> None:
    """Fill ``found`` with the scores in ``out``, then with those of the remaining images."""
    pairs = [(name, sample) for name, samples in found.samples.items() for sample in samples]
    journal = _open_journal(segmenter, config, out)
    todo = []
    for name, sample in pairs:
        matrix, folder = journal.matrix(name, sample), config.save_predictions
        sums = None if matrix is None else journal.sums(name, sample, _summed(config))
        if (
            matrix is None
            or sums is None
            or (folder is not None and not _prediction_path(folder, name, sample).is_file())
        ):
            todo.append((name, sample))
        else:
            found.matrices[name, sample.id], found.sums[name, sample.id] = matrix, sums
    late: list[BadFile] = []
    done, started = len(pairs) - len(todo), time.perf_counter()
    progress("score", done, len(pairs))
    for scored, matrix, sums in _score(segmenter, config, protocol, todo, late):
        journal.add(scored.dataset, scored.files, matrix, sums)
        found.matrices[scored.dataset, scored.files.id], found.sums[scored.dataset, scored.files.id] = matrix, sums
        done += 1
        progress("score", done, len(pairs))
    found.seconds, found.scored_now = time.perf_counter() - started, len(todo) - len(late)
    _leave_out(found, late)
    if config.strict:
        refuse_bad_files(late)
    empty = [name for name, samples in found.samples.items() if not samples]
    if empty:
        raise InputError(
            f"no image of {', '.join(empty)} can be scored", "fix the files; without --skip-bad they are listed"
        )


def _open_journal(segmenter: Segmenter, config: EvalConfig, out: Path) -> ScoreJournal:
    held = sorted(entry.name for entry in out.iterdir() if not is_hidden(entry.name))
    if held and JOURNAL not in held:
        raise OutputError(f"{out} holds other files ({', '.join(held[:3])})", "choose a new or empty folder for --out")
    facts = {name: value for name, value in segmenter.facts().items() if name not in ("path", "device")}
    fixed = {name: value for name, value in config.identity().items() if name not in (*facts, "device")}
    return ScoreJournal(out, {"segmenter": facts, **fixed})


def _summed(config: EvalConfig) -> tuple[str, ...]:
    return tuple(name for name in config.metrics if name in SUMMED)


def _score(
    segmenter: Segmenter, config: EvalConfig, protocol: Protocol, todo: list[tuple[str, Sample]], late: list[BadFile]
) -> Iterator[tuple[EvalSample, np.ndarray, Sums]]:
    """Yield the confusion matrix and the sums of each image.

    Classes are chosen and counted in a thread of their own while the network works on the next images. If bad files are
    refused, the first one ends scoring, but reading continues so that all of them are listed.
    """
    watch = ConfidenceWatch(segmenter) if "calibration" in config.metrics else None

    def count(sample: EvalSample, label: Callable[[], Tensor]) -> tuple[np.ndarray, Sums]:
        predicted = segmenter.classes[label().cpu().numpy()]
        if config.save_predictions is not None:
            write_label(
                _prediction_path(config.save_predictions, sample.dataset, sample.files), predicted, segmenter.taxonomy
            )
        classes, confidence = segmenter.taxonomy.size, None if watch is None else watch.take(sample)
        sums = measure_image(_summed(config), sample.label, predicted, classes, confidence)
        return confusion(sample.label, predicted, void=True, classes=classes), sums

    samples = read_samples(todo, protocol, worker_count(config), late)
    wanted = (sample for sample in samples if not (config.strict and late))
    queue: list[tuple[EvalSample, Future[tuple[np.ndarray, Sums]]]] = []
    with ThreadPoolExecutor(1) as pool:
        settings: dict[str, Any] = {"batch": config.batch, "tta": config.tta, "observe": watch}
        for sample, label in predict(wanted, segmenter, protocol, **settings):
            queue.append((sample, pool.submit(count, sample, label)))
            while queue and (len(queue) > 1 or queue[0][1].done()):  # each holds the logits of an image
                first, future = queue.pop(0)
                yield first, *future.result()
        for first, future in queue:
            yield first, *future.result()


def _leave_out(found: SetScores, late: list[BadFile]) -> None:
    bad = {(file.dataset, file.path) for file in late}
    for name, samples in found.samples.items():
        found.samples[name] = [
            sample for sample in samples if not bad & {(name, str(sample.label)), (name, str(sample.image))}
        ]
        kept = {sample.id for sample in found.samples[name]}
        groups = found.conditions.get(name, {})
        found.conditions[name] = {text: left for text, ids in groups.items() if (left := [i for i in ids if i in kept])}
    found.bad_files += late
