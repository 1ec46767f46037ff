"""Class and style balance: each job depends on the classes and styles of the jobs before it.

A job ends as one scene with one label, however many attempts its image takes. The class histogram of a folder is
therefore that of its jobs' labels. It needs no image, and a resumed run, a shard or another machine computes the same
jobs.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dgkit.data.crops import Draw
from dgkit.labels import NUM_CLASSES

PRIOR_SCENES = 16  # weight of the class frequencies of the label maps, in scenes: the first jobs have no histogram yet
SHARPENING = (
    10  # divisor of the temperature; a running histogram corrects itself, so it tolerates sharper probabilities
)
_CACHED_DRAWS = 64  # jobs are requested nearly in order


@dataclass(frozen=True, eq=False)
class EarlierJobs:
    """Totals over the jobs before a job: int64 [K] pixels per class; int64 [K+1] jobs per drawn class, last: none."""

    pixels: np.ndarray
    jobs: np.ndarray

    def jobs_of(self, class_id: int | None) -> int:
        """Return the number of jobs that were drawn for a class, or for none."""
        return int(self.jobs[-1 if class_id is None else class_id])

    def after(self, draw: Draw) -> "EarlierJobs":
        """Return the totals with one more job."""
        counts = np.bincount(draw.label.ravel(), minlength=256)[: len(self.pixels)]
        jobs = self.jobs.copy()
        jobs[-1 if draw.class_id is None else draw.class_id] += 1
        return EarlierJobs(self.pixels + counts, jobs)


class Balance:
    """The crops of a run, each dependent on those before it. Thread-safe; takes about 0.5 kB of memory per job.

    ``classes``: class probabilities follow DAFormer's formula, P(c) ~ exp((1 - f_c) / T), with the frequency f_c in the
    scenes so far instead of the label maps, at a lower temperature T. ``styles``: the scenes of each class follow the
    shares of the style mix. ``size`` is the number of classes.
    """

    def __init__(self, classes: bool, styles: bool, size: int = NUM_CLASSES) -> None:
        self.classes, self.styles = classes, styles
        self._before = [EarlierJobs(np.zeros(size, np.int64), np.zeros(size + 1, np.int64))]
        self._draws: OrderedDict[int, Draw] = OrderedDict()
        self._lock = threading.Lock()

    def draw(
        self, job_index: int, source: np.ndarray, draw: Callable[[int, np.ndarray | None], Draw]
    ) -> tuple[Draw, EarlierJobs]:
        """Return the crop of job ``job_index`` and the totals before it; earlier crops are drawn first if needed.

        ``source`` [K] is the number of pixels of each class in the label maps. ``draw(number, counts)`` draws the crop
        of a job with the class frequencies of ``counts``, or of the label maps for None.
        """
        with self._lock:
            while len(self._before) <= job_index:
                self._before.append(self._before[-1].after(self._cached(len(self._before) - 1, source, draw)))
            return self._cached(job_index, source, draw), self._before[job_index]

    def _cached(self, number: int, source: np.ndarray, draw: Callable[[int, np.ndarray | None], Draw]) -> Draw:
        found = self._draws.get(number)
        if found is None:
            found = draw(number, self._counts(self._before[number], source) if self.classes else None)
            self._draws[number] = found
            if len(self._draws) > _CACHED_DRAWS:
                self._draws.popitem(last=False)
        return found

    @staticmethod
    def _counts(earlier: EarlierJobs, source: np.ndarray) -> np.ndarray:
        """Return the pixels of each class so far, plus :data:`PRIOR_SCENES` scenes with the label maps' frequencies."""
        scenes = int(earlier.jobs.sum())
        area = earlier.pixels.sum() / scenes if scenes else 1.0
        return earlier.pixels + PRIOR_SCENES * area * source / max(1, int(source.sum()))
