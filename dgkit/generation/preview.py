"""A preview of a run: the first label maps in every style on one contact sheet, before the run is started."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.errors import UsageError
from dgkit.files import atomic_write, local_path
from dgkit.generation.blocks import Block
from dgkit.generation.contact_sheet import Thumbnail, of_image, of_label, sheet_of
from dgkit.generation.defaults import adapter_note, for_single_scenes
from dgkit.generation.encoding import png
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.jobs import JobPlan, in_style, make_job
from dgkit.generation.resuming import run_settings
from dgkit.generation.scene_generator import SceneGenerator
from dgkit.generation.settings import checked_mix, chosen_engines, footnote, for_model, make_config, make_plan
from dgkit.generation.sources import open_files
from dgkit.generation.word_notes import word_notes
from dgkit.generation.writer import PREVIEW, OutputFolder
from dgkit.progress import Notify, Progress, ignore
from dgkit.texts import count_of

LABELS = 3  # label maps of a preview
_OTHER_RUNS = ("jobs", "shard", "ray")  # settings of runs that a preview cannot stand for


@dataclass(frozen=True)
class PreviewResult:
    """The sheet at ``path`` with ``labels`` label maps in ``styles``; the run itself has ``count`` images."""

    path: Path
    labels: int
    styles: tuple[str, ...]
    count: int

    def to_json(self) -> dict[str, Any]:
        """Return what ``dgkit generate --preview --json`` prints."""
        return {"preview": str(self.path), "labels": self.labels, "styles": list(self.styles), "count": self.count}


def preview(
    out: str | Path,
    config: GenerateConfig | None = None,
    *,
    labels: str | Path | Iterable[np.ndarray] | None = None,
    progress: Progress | None = None,
    notify: Notify | None = None,
    **settings: Any,
) -> PreviewResult:
    """Write ``out/preview.png``: the first label maps of a run, at most three, each in every style of its mix.

    Arguments are those of :func:`~dgkit.generation.run.generate`, which makes the run with the same ones. Each image
    has the crop and the noise of its job in the run; the judge is not used, and no engine is built unless one is
    stated. ``progress`` reports the stages "index" and "generate".

    Raises what ``generate`` raises, and UsageError for a table of jobs, a shard or a cluster.
    """
    if isinstance(labels, str | Path):
        settings["labels"], labels = labels, None
    arrays = None if labels is None else list(labels)
    folder, progress = OutputFolder(local_path(out)), progress or ignore
    given = make_config(config, settings, arrays)
    stated = next((name for name in _OTHER_RUNS if getattr(given, name) is not None), None)
    if stated is not None:
        raise UsageError(f"--preview and --{stated} cannot be combined", f"drop --{stated} for the preview")
    config = run_settings(folder, given)
    plan, lines, note = _make(config.model_copy(update={"judge": None}), arrays, progress, notify)
    styles = plan.mix.used
    title = f"Preview: {count_of(len(lines), 'label map')} in {count_of(len(styles), 'style')}"
    path = folder.path / PREVIEW
    atomic_write(path, png(np.asarray(sheet_of(lines, title, note, plan.index.dataset.taxonomy))))
    return PreviewResult(path, len(lines), styles, config.count)


def _make(
    config: GenerateConfig, arrays: Sequence[np.ndarray] | None, progress: Progress, notify: Notify | None
) -> tuple[JobPlan, list[list[Thumbnail]], str]:
    """Return the plan of the run, the thumbnails of each label map, and the description of the run."""
    from dgkit.diffusion.loading import load_pipeline
    from dgkit.diffusion.model_opening import open_model

    mix = checked_mix(config)
    model = open_model(config.model, config.controlnet, config.lora)
    config = for_single_scenes(for_model(config, model.info), model.info)
    dataset = open_files(config, arrays)
    pipeline = load_pipeline(model, recipe=chosen_engines(config), rebuild=config.rebuild, notify=notify)
    plan, config = make_plan(config, dataset, pipeline, mix, progress, notify)
    if notify is not None:
        for note in (adapter_note(config, model.info), *word_notes(plan, pipeline, config.guidance_scale)):
            if note is not None:
                notify(note)
    firsts = [make_job(plan, number) for number in range(min(LABELS, config.count))]
    jobs = [in_style(plan, job, style) for job in firsts for style in mix.used]
    block = Block(tuple(jobs), tuple(job.index for job in firsts))
    with SceneGenerator(config, pipeline) as generator:
        images = generator.generate(block, lambda share: progress("generate", share * len(jobs), len(jobs)))
    lines = [[Thumbnail(of_label(job.label, job.taxonomy), "label map", job.source)] for job in firsts]
    for number, made in enumerate(images):
        line, style = lines[number // len(mix.used)], mix.style(made.job.style)
        line.append(Thumbnail(of_image(made.result.image), style.name, style.clause))
    return plan, lines, footnote(config, model.info.name)
