"""Jobs: everything that determines an image, computed before it is generated.

A job is a pure function of (settings, label maps, run seed, job index). Each can be computed alone, in any order, on
any machine, and an interrupted run resumes with the same jobs. With class or style balance, a job also depends on the
labels of the jobs before it, but on no image.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dgkit.data.crops import CropBox, CropRules, Draw, crop, draw_crop
from dgkit.data.index import ClassIndex
from dgkit.data.style_mixes import StyleMix
from dgkit.generation.balance import SHARPENING, Balance, EarlierJobs
from dgkit.generation.job_table import JobRow
from dgkit.prompts import Prompt, Wording
from dgkit.styles import NO_STYLE, Style
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

# One random generator per (run seed, job, purpose): the draws for one purpose do not shift those for another.
CROP, NOISE, STYLE = range(3)
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class JobPlan:
    """What jobs depend on. ``index``: class counts of the scaled label maps; ``balance`` None: independent jobs.

    ``rows`` are the jobs themselves, instead of a choice of crops and styles. ``negative_prompt`` is that of styles
    without their own.
    """

    index: ClassIndex
    rules: CropRules
    mix: StyleMix
    seed: int
    rare: bool = True
    balance: Balance | None = None
    rows: tuple[JobRow, ...] | None = None
    wording: Wording = field(default_factory=Wording)
    negative_prompt: str = ""

    def negative(self, style: Style) -> str:
        """Return the negative prompt of a style: its own, else that of the run."""
        return self.negative_prompt if style.negative_prompt is None else style.negative_prompt


@dataclass(frozen=True)
class Job:
    """One image to generate. ``label``, uint8 [H,W] of train ids 0..18 or 255, is both the condition and the output.

    ``names`` are the names of classes in the prompt. ``guidance_scale`` is that of the style; None: that of the run.
    """

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
    taxonomy: Taxonomy = field(default=CITYSCAPES19, repr=False, compare=False)
    names: tuple[str, ...] = ()
    negative_prompt: str = ""
    guidance_scale: float | None = None


def make_job(plan: JobPlan, job_index: int) -> Job:
    """Return job number ``job_index`` (0, 1, ...).

    The crop follows the rare class generation of DGInStyle (``gen_datasets.py``), the prompt its style prompting.

    Raises:
        LabelError: a label map cannot be read.
        InputError: no label map has a class that can be drawn.
    """
    if plan.rows is not None:
        return _table_job(plan, plan.rows[job_index], job_index)
    draw, earlier = _draw(plan, job_index)
    style = _style(plan, job_index, draw.class_id, earlier)
    source = plan.index.dataset.samples[draw.sample_index].id
    taxonomy = plan.index.dataset.taxonomy
    class_name = None if draw.class_id is None else taxonomy.names[draw.class_id]
    return Job(
        index=job_index,
        id=_job_id(job_index, source, class_name),
        source=source,
        class_name=class_name,
        box=draw.box,
        label_scale=plan.index.scale,
        rule_met=draw.rule_met,
        seed=_noise_seed(plan.seed, job_index),
        label=draw.label,
        taxonomy=taxonomy,
        **_words(plan, draw.label, style),
    )


def in_style(plan: JobPlan, job: Job, style: str) -> Job:
    """Return the same job with the words of another style."""
    return replace(job, **_words(plan, job.label, style))


def _words(plan: JobPlan, label: np.ndarray, name: str, prompt: str | None = None) -> dict[str, Any]:
    """Return the fields of a job that its style determines, with a stated ``prompt`` or the one of the plan's words."""
    style = plan.mix.style(name)
    worded = plan.wording.prompt(label, style) if prompt is None else Prompt(prompt)
    return {
        "style": name,
        "prompt": worded.text,
        "names": worded.names,
        "negative_prompt": plan.negative(style),
        "guidance_scale": style.guidance_scale,
    }


def _table_job(plan: JobPlan, row: JobRow, job_index: int) -> Job:
    """Return the job of a row: the centre of its label map, and where the row says nothing, prompt, style and seed."""
    label, source = plan.index.read(row.sample), plan.index.dataset.samples[row.sample].id
    taxonomy, (height, width) = plan.index.dataset.taxonomy, plan.rules.shape
    top, left = max(0, (label.shape[0] - height) // 2), max(0, (label.shape[1] - width) // 2)
    box = CropBox(left, top, width, height)
    window = crop(label, box)
    style = row.style or (NO_STYLE if row.prompt else spread_style(plan.mix, plan.seed, job_index))
    return Job(
        index=job_index,
        id=_job_id(job_index, source, None),
        source=source,
        class_name=None,
        box=box,
        label_scale=plan.index.scale,
        rule_met=True,
        seed=_noise_seed(plan.seed, job_index) if row.seed is None else row.seed,
        label=window,
        taxonomy=taxonomy,
        **_words(plan, window, style, row.prompt),
    )


def _noise_seed(run_seed: int, job_index: int) -> int:
    return int(np.random.default_rng([run_seed, job_index, NOISE]).integers(2**63))


def attempt_seed(run_seed: int, job_index: int, attempt: int) -> int:
    """Return the noise seed of retry ``attempt`` of a job, 1 or more; attempt 0 uses the seed of the job itself."""
    return int(np.random.default_rng([run_seed, job_index, NOISE, attempt]).integers(2**63))


def _draw(plan: JobPlan, job_index: int) -> tuple[Draw, EarlierJobs | None]:
    """Return the crop of a job and, with balance, the totals of the jobs before it."""

    def draw(number: int, counts: np.ndarray | None) -> Draw:
        rules = plan.rules if counts is None else replace(plan.rules, temperature=plan.rules.temperature / SHARPENING)
        rng = np.random.default_rng([plan.seed, number, CROP])
        return draw_crop(plan.index, rules, rng, rare=plan.rare, counts=counts)

    if plan.balance is None:
        return draw(job_index, None), None
    return plan.balance.draw(job_index, plan.index.counts.sum(axis=0), draw)


def _style(plan: JobPlan, job_index: int, class_id: int | None, earlier: EarlierJobs | None) -> str:
    if earlier is None or plan.balance is None or not plan.balance.styles:
        return spread_style(plan.mix, plan.seed, job_index)
    return spread_style(plan.mix, plan.seed, earlier.jobs_of(class_id), -1 if class_id is None else class_id)


def spread_style(mix: StyleMix, seed: int, job_index: int, class_id: int | None = None) -> str:
    """Return the style of a job.

    The styles follow golden-ratio steps through [0, 1) instead of independent draws: the shares are the same in the
    long run, and a short run is as close to the mix as its length allows. With ``class_id`` (-1: none), each class has
    its own starting point, and ``job_index`` is the number of the job within its class.
    """
    offset = np.random.default_rng([seed, STYLE] if class_id is None else [seed, STYLE, class_id + 1]).random()
    shares = mix.probabilities
    position = (offset + job_index * GOLDEN) % 1.0
    chosen = int(np.searchsorted(np.cumsum(shares), position, side="right"))
    # The last cumulative share may round below 1; that must not select a style of weight 0.
    return mix.names[min(chosen, int(np.flatnonzero(shares)[-1]))]


def _job_id(job_index: int, source: str, class_name: str | None) -> str:
    """Return a unique id of number, source and class, with characters that are safe in file names everywhere."""
    stem = re.sub(r"[^A-Za-z0-9.-]+", "-", source.removesuffix("_labelTrainIds")).strip("-.")[-60:]
    parts = [f"{job_index:06d}", stem, (class_name or "").replace(" ", "-")]
    return "_".join(part for part in parts if part)
