"""The judge of a run: images that do not show their label are sampled again with the next seed."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dgkit.data.filtering import judge
from dgkit.data.records import Attempt
from dgkit.errors import InputError
from dgkit.files import digest_file
from dgkit.generation.encoding import GeneratedImage
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.jobs import Job, attempt_seed
from dgkit.segmenters.onnx import open_onnx_segmenter
from dgkit.segmenters.onnx_digest import digest_onnx
from dgkit.taxonomies import CITYSCAPES19, Taxonomy, find_taxonomy

if TYPE_CHECKING:
    from dgkit.diffusion.sampler import SceneResult


class AgreementCheck:
    """Accepts an image if its agreement with its label is at least ``min_agreement``, or undefined."""

    def __init__(self, config: GenerateConfig) -> None:
        """Open the judge that ``config`` names.

        Raises InputError if its digest is not the one in ``config``, EngineError or MissingDependency if it cannot run.
        """
        assert config.judge is not None
        self._segmenter = open_onnx_segmenter(config.judge, find_taxonomy(config.taxonomy))
        self._required, self._redraws, self._seed = config.min_agreement, config.redraws, config.seed
        found = judge_digest(config.judge)
        if config.judge_digest not in (None, found):
            raise InputError(
                f"the judge {config.judge} has digest {found[:16]}..., "
                f"this run uses the judge with digest {str(config.judge_digest)[:16]}...",
                "pass the judge that the run started with",
            )

    def generate(
        self, jobs: Sequence[Job], sample: "Callable[[Sequence[Job]], list[SceneResult]]"
    ) -> list[GeneratedImage]:
        """Return the best attempt of each job; jobs that are not accepted are sampled again, together.

        Which jobs share a batch depends on ``jobs`` alone, so the same jobs give the same bytes.
        """
        best: dict[int, GeneratedImage] = {}
        for attempt in range(1 + self._redraws):
            left = [job for job in jobs if job.index not in best or not best[job.index].accepted]
            if not left:
                break
            reseeded = [self._reseeded(job, attempt) for job in left]
            for job, result in zip(reseeded, sample(reseeded), strict=True):
                best[job.index] = self._better(best.get(job.index), job, result)
        return [best[job.index] for job in jobs]

    def _reseeded(self, job: Job, attempt: int) -> Job:
        if attempt == 0:
            return job
        return dataclasses.replace(job, seed=attempt_seed(self._seed, job.index, attempt))

    def _better(self, before: GeneratedImage | None, job: Job, result: "SceneResult") -> GeneratedImage:
        agreement = self.agreement(result.image, job.label, job.id)
        attempts = (*(before.attempts if before else ()), Attempt(job.seed, agreement))
        if before is not None and _rank(agreement) <= max(_rank(earlier.agreement) for earlier in before.attempts):
            return dataclasses.replace(before, attempts=attempts)
        accepted = self._required is None or agreement is None or agreement >= self._required
        return GeneratedImage(job, result, attempts, accepted)

    def agreement(self, image: np.ndarray, label: np.ndarray, name: str = "the image") -> float | None:
        """Return the share of pixels of uint8 [H,W,3] RGB classified as in uint8 [H,W]; None if no pixel counts."""
        logits, size = self._segmenter.image_logits(image, name), self._segmenter.taxonomy.size
        return judge(logits, self._segmenter.classes, label, size).agreement


def judge_notes(path: Path, taxonomy: Taxonomy = CITYSCAPES19) -> list[str]:
    """Return a line for each thing that users of a judge should know, such as classes of ``taxonomy`` that it lacks.

    Opens it: raises InputError, EngineError, MissingDependency.
    """
    return [f"{path}: {note}" for note in open_onnx_segmenter(path, taxonomy).notes]


def judge_digest(path: Path) -> str:
    """Return the SHA-256 over an ONNX file, its external data and its side-car. Raises InputError if it is missing."""
    try:
        digests = [digest_onnx(path)]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "dgkit train judge DIR writes DIR/segmenter.onnx") from error
    sidecar = path.with_suffix(".yaml")
    return hashlib.sha256(" ".join([*digests, digest_file(sidecar) if sidecar.is_file() else ""]).encode()).hexdigest()


def _rank(agreement: float | None) -> float:
    return 1.0 if agreement is None else agreement
