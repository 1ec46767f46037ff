"""What the page does: one loaded model, and scenes from one label map in several settings."""

import hashlib
import itertools
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import dgkit
from dgkit.app.drawing import pack_label
from dgkit.app.repeat import BULK
from dgkit.config import load_config
from dgkit.data.datasets import label_arrays
from dgkit.data.labelmap import write_label
from dgkit.errors import UsageError, shown
from dgkit.generation.agreement import AgreementCheck
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.guards import memory_errors
from dgkit.generation.jobs import make_job
from dgkit.generation.scene_generator import scene_request
from dgkit.generation.settings import chosen_preset, chosen_style_mix, make_plan
from dgkit.generation.word_notes import word_notes
from dgkit.progress import Advance, ignore
from dgkit.styles import KNOWN_STYLES, make_style, parse_styles
from dgkit.wording import MAX_TEXT

if TYPE_CHECKING:
    from dgkit.diffusion.pipeline import Pipeline

MOST_SCENES = 12  # of one press of the button


class Stopped(Exception):
    """The scene was stopped on the page, or the page was closed."""


@dataclass(frozen=True)
class Choice:
    """Settings of one scene; ``guidance`` None: the preset's, else the model's; ``clause`` is that of an own style."""

    style: str
    preset: str
    guidance: float | None
    seed: int
    clause: str | None = None

    @property
    def name(self) -> str:
        """Name of an output folder for these settings."""
        guidance = "" if self.guidance is None else f"-guidance{self.guidance:g}"
        return re.sub(r"[^A-Za-z0-9.-]+", "-", f"{self.style}-{self.preset}{guidance}-seed{self.seed}")


@dataclass(frozen=True)
class TriedScene:
    """A scene: ``image`` uint8 [H, W, 3] RGB; ``config`` repeats it as image 000000 of a run of ``generate``.

    ``agreement`` is the share of pixels in which a judge sees the label; None without a judge. ``notes`` are warnings
    about the words of the style.
    """

    choice: Choice
    config: GenerateConfig
    image: np.ndarray
    prompt: str
    seconds: float
    agreement: float | None
    notes: tuple[str, ...] = ()


class Studio:
    """Makes scenes with an open ``pipeline``, one at a time.

    ``base``: model, judge and label maps as given on the command line. Label maps that scenes are made of are kept in
    ``folder``, so that ``dgkit generate`` finds them.
    """

    def __init__(self, base: GenerateConfig, pipeline: "Pipeline", folder: Path) -> None:
        self.base, self.pipeline, self.folder = base, pipeline, folder
        self._judge = AgreementCheck(base) if base.judge is not None else None
        self._lock, self._stopped, self._closed = threading.Lock(), threading.Event(), False

    def make(self, label: np.ndarray, choice: Choice, progress: Advance | None = None) -> TriedScene:
        """Return the scene of ``choice`` for uint8 train ids [H, W]: the first image of a run with its settings.

        Raises Stopped after :meth:`stop`, LabelError for a label without classes, and as :func:`dgkit.sample`.
        """
        config = self.config(label, choice)
        with self._lock:
            # As an array: the class index of a folder would be cached on disk.
            alone = config.model_copy(update={"judge": None, "labels": None, "arrays": 1})
            mix = chosen_style_mix(config)
            plan, settings = make_plan(alone, label_arrays([label]), self.pipeline, mix, ignore)
            job = make_job(plan, 0)
            started = time.perf_counter()
            with memory_errors(config.samples):
                (result,) = dgkit.sample(
                    self.pipeline,
                    [scene_request(job)],
                    chosen_preset(config),
                    batch=config.samples,
                    progress=self._watch(progress),
                )
            seconds = time.perf_counter() - started
            agreement = self._judge.agreement(result.image, job.label) if self._judge else None
            notes = tuple(word_notes(plan, self.pipeline, settings.guidance_scale))
        return TriedScene(choice, config, result.image, result.prompt, seconds, agreement, notes)

    def start(self) -> None:
        """Forget an earlier :meth:`stop`, before the first scene of a series."""
        self._stopped.clear()

    def config(self, label: np.ndarray, choice: Choice) -> GenerateConfig:
        """Return the settings of a run on this label map alone; the map is written to the folder."""
        own = {} if choice.clause is None else {choice.style: {"clause": choice.clause}}
        return self.base.model_copy(
            update={
                "labels": self._kept(label), "dataset": None, "world": None, "encoding": None, "split": None,
                "size": label.shape, "label_scale": 1.0, "count": BULK, "style_mix": choice.style,
                "styles": own, "preset": choice.preset, "guidance_scale": choice.guidance, "seed": choice.seed,
            }
        )  # fmt: skip

    def stop(self) -> None:
        """Stop the scene that is being made, at its next call of a network, and those after it until :meth:`start`."""
        self._stopped.set()

    def close(self) -> None:
        """Stop for good: no scene is made after this."""
        self._closed = True

    def _watch(self, progress: Advance | None) -> Advance:
        def advance(done: float, total: float) -> None:
            if self._closed or self._stopped.is_set():
                raise Stopped("stopped")
            if progress is not None:
                progress(done, total)

        return advance

    def _kept(self, label: np.ndarray) -> Path:
        """Return the folder that holds this label map and nothing else."""
        folder = self.folder / hashlib.sha256(pack_label(label).encode()).hexdigest()[:12]
        path = folder / "drawn_labelTrainIds.png"
        if not path.is_file():
            write_label(path, label)
        return folder


def choices(styles: Sequence[str], own: str, presets: Sequence[str], guidances: str, seeds: str) -> list[Choice]:
    """Return every combination of the settings on the page.

    ``styles`` are names of known styles, ``own`` more of them or ``NAME=CLAUSE``, one a line; ``guidances`` and
    ``seeds`` hold numbers separated by commas. An empty text of guidance scales stands for the scale of the preset or
    the model. Raises UsageError for values that ``generate`` would refuse, and for more than :data:`MOST_SCENES`
    combinations.
    """
    clauses = _clauses(styles, own)
    if not clauses or not presets:
        raise UsageError("no style or no preset is selected", "select at least one of each")
    scales: list[str | None] = [*_parts(guidances)] or [None]
    numbers = _parts(seeds) or ["0"]
    count = len(clauses) * len(presets) * len(scales) * len(numbers)
    if count > MOST_SCENES:
        raise UsageError(f"{count} scenes were requested; at most {MOST_SCENES} are made at once", "select fewer")
    return [_choice(*each, clauses) for each in itertools.product(clauses, presets, scales, numbers)]


def _clauses(styles: Sequence[str], own: str) -> dict[str, str | None]:
    """Return the clauses of styles by name, None for those with the words that dgkit knows."""
    if len(own) > MOST_SCENES * MAX_TEXT:
        raise UsageError("the text of own styles is too long", f"write at most {MOST_SCENES} styles")
    typed = parse_styles([*styles, *(line.strip() for line in own.splitlines() if line.strip())])
    return {name: None if make_style(name, style) == KNOWN_STYLES.get(name) else style["clause"]
            for name, style in typed.items()}  # fmt: skip


def _parts(text: str) -> list[str]:
    if len(text) > 1000:
        raise UsageError(f"{shown(text)} is too long", "write numbers separated by commas")
    return [part.strip() for part in text.split(",") if part.strip()]


def _choice(style: str, preset: str, guidance: str | None, seed: str, clauses: Mapping[str, str | None]) -> Choice:
    """Return a choice whose values :class:`GenerateConfig` and the preset accept."""
    given = load_config(GenerateConfig, preset=preset, guidance_scale=guidance, seed=seed)
    chosen_preset(given)
    return Choice(style, preset, given.guidance_scale, given.seed, clauses[style])
