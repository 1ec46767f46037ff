"""Images that do not show their label are drawn again: with the next seed, at most so many times."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dgkit.data.filtering import judge
from dgkit.data.records import Attempt
from dgkit.errors import InputError
from dgkit.files import digest_file
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.jobs import Job, attempt_seed
from dgkit.segmenters.onnx import open_onnx_segmenter

if TYPE_CHECKING:
    from dgkit.diffusion.sampler import SceneResult

Draw = Callable[[Sequence[Job]], "list[SceneResult]"]


class Drawn(NamedTuple):
    """An image of a job, whose seed is that of the drawing. ``attempts`` are all drawings, none without a judge."""

    job: Job
    result: "SceneResult"
    attempts: tuple[Attempt, ...] = ()
    accepted: bool = True


class Referee:
    """The judge of a run. An image whose agreement is at least ``min_agreement``, or not known, is accepted."""

    def __init__(self, config: GenerateConfig) -> None:
        """``config`` names a judge. Raises InputError for another file than the run's, EngineError,
        MissingDependency.
        """
        assert config.judge is not None
        self._segmenter = open_onnx_segmenter(config.judge)
        self._least, self._redraws, self._seed = config.min_agreement, config.redraws, config.seed
        found = judge_digest(config.judge)
        if config.judge_digest not in (None, found):
            raise InputError(
                f"the judge {config.judge} has digest {found[:16]}..., the run's is {str(config.judge_digest)[:16]}...",
                "give the judge that the run began with",
            )

    def draw(self, jobs: Sequence[Job], draw: Draw) -> list[Drawn]:
        """Draw ``jobs``, and those that are not accepted again, together; of each the best drawing is kept.

        What is drawn together follows from the jobs alone, so the same jobs end with the same bytes.
        """
        best: dict[int, Drawn] = {}
        for attempt in range(1 + self._redraws):
            left = [job for job in jobs if job.index not in best or not best[job.index].accepted]
            if not left:
                break
            again = [self._reseeded(job, attempt) for job in left]
            for job, result in zip(again, draw(again), strict=True):
                best[job.index] = self._better(best.get(job.index), job, result)
        return [best[job.index] for job in jobs]

    def _reseeded(self, job: Job, attempt: int) -> Job:
        if attempt == 0:
            return job
        return dataclasses.replace(job, seed=attempt_seed(self._seed, job.index, attempt))

    def _better(self, before: Drawn | None, job: Job, result: "SceneResult") -> Drawn:
        agreement = self.agreement(result.image, job.label)
        tried = (*(before.attempts if before else ()), Attempt(job.seed, agreement))
        if before is not None and _known(agreement) <= max(_known(earlier.agreement) for earlier in before.attempts):
            return before._replace(attempts=tried)
        accepted = self._least is None or agreement is None or agreement >= self._least
        return Drawn(job, result, tried, accepted)

    def agreement(self, image: np.ndarray, label: np.ndarray) -> float | None:
        """Share of the pixels of uint8 [H,W,3] RGB that are called as uint8 [H,W] labels them; None without any."""
        return judge(self._segmenter.image_logits(image), self._segmenter.classes, label).agreement


def judge_digest(path: Path) -> str:
    """SHA-256 over an ONNX file and its side-car. Raises InputError for a missing file."""
    try:
        digests = [digest_file(path)]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "dgkit train judge DIR writes DIR/segmenter.onnx") from error
    beside = path.with_suffix(".yaml")
    return hashlib.sha256(" ".join([*digests, digest_file(beside) if beside.is_file() else ""]).encode()).hexdigest()


def _known(agreement: float | None) -> float:
    return 1.0 if agreement is None else agreement
