"""Class and style balance: the next job is drawn with regard to what the jobs before it hold.

Every job ends as one scene with its label, however often its image is drawn again, so the running histogram of a folder
is that of its jobs' labels. It is computed from them alone: no image is needed, and a run that was cut off, a shard or
another machine comes to the same jobs.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dgkit.data.crops import Draw
from dgkit.labels import NUM_CLASSES

PRIOR_SCENES = 16  # weight of the label maps' own class frequencies, in scenes: the first jobs have no histogram yet
SHARPER = 10  # the temperature is divided by it: with a running histogram a class that is drawn too often is held back
_KEPT = 64  # draws that are not made again; those are asked for nearly in order


@dataclass(frozen=True, eq=False)
class Seen:
    """What the jobs before one hold: int64 [19] pixels of each class; int64 [20] jobs by drawn class, last: none."""

    pixels: np.ndarray
    jobs: np.ndarray

    def jobs_of(self, class_id: int | None) -> int:
        return int(self.jobs[NUM_CLASSES if class_id is None else class_id])

    def after(self, draw: Draw) -> "Seen":
        """With one more job."""
        counts = np.bincount(draw.label.ravel(), minlength=256)[:NUM_CLASSES]
        jobs = self.jobs.copy()
        jobs[NUM_CLASSES if draw.class_id is None else draw.class_id] += 1
        return Seen(self.pixels + counts, jobs)


class Balance:
    """The draws of a run, each with regard to those before it; about 0.5 kB of memory a job. Threads may share one.

    ``classes``: probabilities of the rare classes follow DAFormer's formula, P(c) ~ exp((1 - f_c) / T), with f_c of the
    scenes so far instead of the label maps, at a lower temperature. ``styles``: each class has the styles in the shares
    of the mix.
    """

    def __init__(self, classes: bool, styles: bool) -> None:
        self.classes, self.styles = classes, styles
        self._before = [Seen(np.zeros(NUM_CLASSES, np.int64), np.zeros(NUM_CLASSES + 1, np.int64))]
        self._draws: OrderedDict[int, Draw] = OrderedDict()
        self._lock = threading.Lock()

    def draw(
        self, job_index: int, source: np.ndarray, draw: Callable[[int, np.ndarray | None], Draw]
    ) -> tuple[Draw, Seen]:
        """The draw of job ``job_index`` and what the jobs before it hold. Those not drawn yet are drawn first.

        ``source`` [19] are the pixels of each class in the label maps. ``draw(number, counts)`` draws a job by such
        ``counts``, or by the label maps' own where None.
        """
        with self._lock:
            while len(self._before) <= job_index:
                self._before.append(self._before[-1].after(self._drawn(len(self._before) - 1, source, draw)))
            return self._drawn(job_index, source, draw), self._before[job_index]

    def _drawn(self, number: int, source: np.ndarray, draw: Callable[[int, np.ndarray | None], Draw]) -> Draw:
        found = self._draws.get(number)
        if found is None:
            found = draw(number, self._counts(self._before[number], source) if self.classes else None)
            self._draws[number] = found
            if len(self._draws) > _KEPT:
                self._draws.popitem(last=False)
        return found

    @staticmethod
    def _counts(seen: Seen, source: np.ndarray) -> np.ndarray:
        """Pixels of each class so far, the label maps' frequencies counting as :data:`PRIOR_SCENES` scenes."""
        scenes = int(seen.jobs.sum())
        area = seen.pixels.sum() / scenes if scenes else 1.0
        return seen.pixels + PRIOR_SCENES * area * source / max(1, int(source.sum()))
