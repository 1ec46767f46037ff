"""``dgkit eval``: a segmenter on several data sets, picture by picture, into one folder of reports."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from dgkit.data.datasets import Dataset, Sample
from dgkit.data.labelmap import write_label
from dgkit.data.scores import confusion
from dgkit.errors import InputError, OutputError
from dgkit.evaluation.benchmark.eval_config import EvalConfig
from dgkit.evaluation.benchmark.inference import ahead, predict
from dgkit.evaluation.benchmark.journal import NAME, Journal
from dgkit.evaluation.benchmark.protocols import Protocol
from dgkit.evaluation.benchmark.sets import BadSample, Item, Problem, find_sets, read_item, refuse, survey
from dgkit.files import output_error
from dgkit.labels import NUM_CLASSES
from dgkit.locks import sole_writer
from dgkit.resources import usable_cores
from dgkit.segmenters.base import Segmenter

Progress = Callable[[str, int, int], None]  # stage ("check" or "score"), done, total
Matrices = dict[tuple[str, str], np.ndarray]  # by data set and id: int64 [19,19], rows are labels


@dataclass
class Scored:
    """All that was found. ``matrices`` holds every good picture; ``now`` of them were scored by this run, in
    ``seconds`` of wall time.
    """

    sets: list[Dataset]
    samples: dict[str, list[Sample]]
    problems: list[Problem]
    matrices: Matrices = field(default_factory=dict)
    now: int = 0
    seconds: float = 0.0

    def total(self, dataset: str, condition: str | None = None) -> np.ndarray:
        """Sum over the pictures of a data set, or over those of one condition."""
        total = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
        for sample in self.samples[dataset]:
            if condition is None or sample.condition == condition:
                total += self.matrices[dataset, sample.id]
        return total


def score_sets(segmenter: Segmenter, config: EvalConfig, out: Path, progress: Progress | None = None) -> Scored:
    """Score every picture of ``config.on`` that ``out`` holds no score of yet.

    Raises UsageError for wrong settings; InputError for sets without label maps, for bad files where
    ``config.strict``, listing all of them, and where no picture is left; OutputError where ``out`` holds other scores,
    cannot be written or is in use; EngineError.
    """
    protocol = config.resolved_protocol()
    sets = find_sets(config.on, config.split)
    report = progress or (lambda stage, done, total: None)
    found = Scored(sets, {}, [])
    for number, dataset in enumerate(sets):
        report("check", number, len(sets))
        found.samples[dataset.name], problems = survey(dataset, workers(config))
        found.problems += problems
    report("check", len(sets), len(sets))
    if config.strict:
        refuse(found.problems)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with sole_writer(out):
            _run(segmenter, config, protocol, out, found, report)
    except OSError as error:
        raise output_error(out, error) from error
    return found


def items(
    samples: Iterable[tuple[str, Sample]], protocol: Protocol, threads: int, problems: list[Problem]
) -> Iterator[Item]:
    """Samples read and resized in parallel; the bad ones are added to ``problems`` instead."""

    def read(given: tuple[str, Sample]) -> Item | Problem:
        try:
            return read_item(*given, protocol)
        except BadSample as error:
            return error.problem

    for found in ahead(read, samples, threads):
        if isinstance(found, Problem):
            problems.append(found)
        else:
            yield found


def workers(config: EvalConfig) -> int:
    return config.workers or len(usable_cores())


def prediction_path(folder: Path, dataset: str, sample: Sample) -> Path:
    """Where the predicted label map of a sample is saved."""
    return folder / dataset / f"{sample.id}.png"


def _run(
    segmenter: Segmenter, config: EvalConfig, protocol: Protocol, out: Path, found: Scored, report: Progress
) -> None:
    held = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith("."))
    if held and NAME not in held:
        raise OutputError(f"{out} holds other files ({', '.join(held[:3])})", "choose a new or empty folder for --out")
    facts = {name: value for name, value in segmenter.facts().items() if name not in ("path", "device")}
    fixed = {name: value for name, value in config.identity().items() if name not in (*facts, "device")}
    journal = Journal(out, {"segmenter": facts, **fixed})
    pairs = [(name, sample) for name, samples in found.samples.items() for sample in samples]
    todo = []
    for name, sample in pairs:
        matrix = journal.matrix(name, sample)
        saved = config.save_predictions is None or prediction_path(config.save_predictions, name, sample).is_file()
        if matrix is None or not saved:
            todo.append((name, sample))
        else:
            found.matrices[name, sample.id] = matrix
    late: list[Problem] = []
    done, started = len(pairs) - len(todo), time.perf_counter()
    report("score", done, len(pairs))
    for item, matrix in _score(segmenter, config, protocol, todo, late):
        journal.add(item.dataset, item.sample, matrix)
        found.matrices[item.dataset, item.sample.id] = matrix
        done += 1
        report("score", done, len(pairs))
    found.seconds, found.now = time.perf_counter() - started, len(todo) - len(late)
    _leave_out(found, late)
    if config.strict:
        refuse(late)
    empty = [name for name, samples in found.samples.items() if not samples]
    if empty:
        raise InputError(
            f"no picture of {', '.join(empty)} can be scored", "mend the files; without --skip-bad they are listed"
        )


def _score(
    segmenter: Segmenter, config: EvalConfig, protocol: Protocol, todo: list[tuple[str, Sample]], late: list[Problem]
) -> Iterator[tuple[Item, np.ndarray]]:
    """Confusion matrices, counted in a thread of its own while the network works on the next pictures.

    After a bad file nothing but reading goes on where bad files are refused: all of them are to be listed.
    """

    def count(item: Item, channels: Tensor) -> np.ndarray:
        predicted = segmenter.classes[channels.cpu().numpy()]
        if config.save_predictions is not None:
            write_label(prediction_path(config.save_predictions, item.dataset, item.sample), predicted)
        return confusion(item.label, predicted)

    def wanted(found: Iterator[Item]) -> Iterator[Item]:
        return (item for item in found if not (config.strict and late))

    read = wanted(items(todo, protocol, workers(config), late))
    queue: list[tuple[Item, Future[np.ndarray]]] = []
    with ThreadPoolExecutor(1) as pool:
        for item, channels in predict(read, segmenter, protocol, batch=config.batch, tta=config.tta):
            queue.append((item, pool.submit(count, item, channels)))
            while queue and (len(queue) > 2 or queue[0][1].done()):
                first, future = queue.pop(0)
                yield first, future.result()
        for first, future in queue:
            yield first, future.result()


def _leave_out(found: Scored, late: list[Problem]) -> None:
    bad = {(problem.dataset, problem.path) for problem in late}
    for name, samples in found.samples.items():
        found.samples[name] = [
            sample for sample in samples if not bad & {(name, str(sample.label)), (name, str(sample.image))}
        ]
    found.problems += late
