"""What each image will be, settled before a pixel is drawn.

A job is a pure function of (settings, label maps, run seed, job index): any one can be recomputed alone, in any order,
on any machine, and a run that was cut off goes on with the very jobs it would have had. Where classes or styles are
balanced, it also depends on the labels of the jobs before it, which are drawn for that and need no image.
"""

import re
from dataclasses import dataclass, field, replace

import numpy as np

from dgkit.data.crops import CropBox, CropRules, Draw, draw_crop
from dgkit.data.index import ClassIndex
from dgkit.data.style_mixes import StyleMix
from dgkit.generation.balance import SHARPER, Balance, Seen
from dgkit.labels import CLASSES
from dgkit.prompts import STYLE_NAMES, caption, compose

# One generator per (run seed, job, purpose), so that another number of draws for one purpose moves no other.
CROP, NOISE, STYLE = range(3)
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class JobPlan:
    """All that jobs depend on. ``index`` is of the label maps after scaling. ``balance`` None: no job minds another."""

    index: ClassIndex
    rules: CropRules
    mix: StyleMix
    seed: int
    rare: bool = True
    balance: Balance | None = None


@dataclass(frozen=True)
class Job:
    """One image to make. ``label`` is uint8 [H,W], train ids 0..18 or 255: condition and written label alike."""

    index: int
    id: str
    source: str
    class_name: str | None
    box: CropBox
    label_scale: float
    rule_met: bool
    prompt: str
    style: str
    seed: int
    label: np.ndarray = field(repr=False, compare=False)


def make_job(plan: JobPlan, job_index: int) -> Job:
    """Compute job number ``job_index`` (0, 1, ...).

    The crop follows the rare class generation of DGInStyle (``gen_datasets.py``), the prompt its style prompting.

    Raises:
        LabelError: a label map cannot be read.
        InputError: no label map has a class that can be drawn.
    """
    draw, seen = _draw(plan, job_index)
    style = _style(plan, job_index, draw.class_id, seen)
    source = plan.index.dataset.samples[draw.sample_index].id
    class_name = None if draw.class_id is None else CLASSES[draw.class_id]
    return Job(
        index=job_index,
        id=_job_id(job_index, source, class_name),
        source=source,
        class_name=class_name,
        box=draw.box,
        label_scale=plan.index.scale,
        rule_met=draw.rule_met,
        prompt=compose(caption(draw.label), style),
        style=style,
        seed=int(np.random.default_rng([plan.seed, job_index, NOISE]).integers(2**63)),
        label=draw.label,
    )


def attempt_seed(run_seed: int, job_index: int, attempt: int) -> int:
    """Noise seed of the ``attempt``-th drawing of a job, from 1; the first of all, 0, has the job's own."""
    return int(np.random.default_rng([run_seed, job_index, NOISE, attempt]).integers(2**63))


def _draw(plan: JobPlan, job_index: int) -> tuple[Draw, Seen | None]:
    """The window of a job, and what the jobs before it hold where that counts."""

    def draw(number: int, counts: np.ndarray | None) -> Draw:
        rules = plan.rules if counts is None else replace(plan.rules, temperature=plan.rules.temperature / SHARPER)
        rng = np.random.default_rng([plan.seed, number, CROP])
        return draw_crop(plan.index, rules, rng, rare=plan.rare, counts=counts)

    if plan.balance is None:
        return draw(job_index, None), None
    return plan.balance.draw(job_index, plan.index.counts.sum(axis=0), draw)


def _style(plan: JobPlan, job_index: int, class_id: int | None, seen: Seen | None) -> str:
    if seen is None or plan.balance is None or not plan.balance.styles:
        return spread_style(plan.mix, plan.seed, job_index)
    return spread_style(plan.mix, plan.seed, seen.jobs_of(class_id), -1 if class_id is None else class_id)


def spread_style(mix: StyleMix, seed: int, job_index: int, class_id: int | None = None) -> str:
    """The style of a job. Golden-ratio steps through [0, 1) instead of independent draws: each style has the same share
    in the long run, and a short run comes as close to the mix as its length allows. With ``class_id`` (-1: none) the
    steps of each class begin elsewhere, and ``job_index`` counts its own jobs.
    """
    offset = np.random.default_rng([seed, STYLE] if class_id is None else [seed, STYLE, class_id + 1]).random()
    shares = mix.probabilities
    position = (offset + job_index * GOLDEN) % 1.0
    chosen = int(np.searchsorted(np.cumsum(shares), position, side="right"))
    # The last edge may round below 1, and a style of weight 0 must never be reached through it.
    return STYLE_NAMES[min(chosen, int(np.flatnonzero(shares)[-1]))]


def _job_id(job_index: int, source: str, class_name: str | None) -> str:
    """Unique by its number; the rest is for people. Only characters that are safe in a file name anywhere."""
    stem = re.sub(r"[^A-Za-z0-9.-]+", "-", source.removesuffix("_labelTrainIds")).strip("-.")[-60:]
    parts = [f"{job_index:06d}", stem, (class_name or "").replace(" ", "-")]
    return "_".join(part for part in parts if part)
