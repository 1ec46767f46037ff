"""``generate``: label maps in, a folder of labelled scenes out; the same call again goes on where the last ended."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgkit.generation.blocks import Maker, Notify, refuse_empty_shard, tasks, total
from dgkit.generation.filter_folder import write_second_labels
from dgkit.generation.flow import Alone, Pool, Tally, Tell, fill
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.jobs import JobPlan
from dgkit.generation.result import GenerateResult
from dgkit.generation.settings import (
    Progress,
    chosen_engines,
    chosen_preset,
    chosen_style_mix,
    footnote,
    given_settings,
    make_plan,
    resolve_places,
)
from dgkit.generation.sources import open_files
from dgkit.generation.writer import OutputFolder

if TYPE_CHECKING:
    from dgkit.diffusion.pipeline import Pipeline


def generate(
    out: str | Path,
    config: GenerateConfig | None = None,
    *,
    progress: Progress | None = None,
    notify: Notify | None = None,
    **settings: Any,
) -> GenerateResult:
    """Make ``count`` images, each with its label map, in the folder ``out``.

    Pass a whole ``config``, or single settings of :class:`GenerateConfig` as keywords. What is in the folder already is
    kept, so the call continues a run that was cut off. ``out`` then holds ``images/<id>.png`` (8-bit RGB),
    ``labels/<id>_labelTrainIds.png`` (8-bit, train ids 0..18 or 255), ``vis/``, ``manifest.jsonl``, ``config.yaml`` and
    ``contact_sheet.png``; nothing in it depends on how often the run was cut off. With a judge or a boundary it also
    holds second labels, see :func:`~dgkit.generation.filter_folder.filter_folder`. ``notify`` is told of engines that
    are built, and why, and of workers that died. With ``shard`` the folder is one part of the run, for
    :func:`~dgkit.generation.merging.merge`.

    Raises UsageError for settings that are not allowed, InputError for label maps or a model that cannot be used,
    OutputError for a folder that is in use, was made with other settings or cannot be written, EngineError where the
    device fails.
    """
    started = time.perf_counter()
    config = resolve_places(given_settings(config, settings))
    refuse_empty_shard(config)
    report = progress or (lambda stage, done, total: None)
    folder = OutputFolder(Path(out))
    folder.check()
    mix, dataset = chosen_style_mix(config), open_files(config)
    chosen_preset(config)  # a wrong preset is an error before the model is loaded
    from dgkit.diffusion.loading import load_pipeline

    pipeline = load_pipeline(
        config.model, config.controlnet, recipe=chosen_engines(config), rebuild=config.rebuild, notify=notify
    )
    plan, config = make_plan(config, dataset, pipeline, mix, report)
    if config.workers == "auto" and config.ray is None:
        from dgkit.generation.split import machine_workers

        config = config.model_copy(update={"workers": machine_workers(config, pipeline, notify)})
    model = str(pipeline.identity()["name"])
    with folder.opened(config):
        before = len(folder.records)
        report("generate", before, total(config))
        if before < total(config):
            _make_missing(folder, plan, pipeline, config, report, notify)
        folder.finish(f"{len(folder.records)} labelled scenes", footnote(config, model))
        write_second_labels(folder.path, config, report)
    records = folder.in_order()
    seconds = time.perf_counter() - started
    pixels = tuple(int(count) for count in plan.index.counts.sum(axis=0))
    return GenerateResult(folder.path, records, len(records) - before, before, seconds, model, pixels)


def _make_missing(
    folder: OutputFolder,
    plan: JobPlan,
    pipeline: "Pipeline",
    config: GenerateConfig,
    report: Progress,
    notify: Notify | None,
) -> None:
    tally = Tally(len(folder.records), total(config), lambda done, of: report("generate", done, of))
    there = set(folder.records)
    with _pool(config, pipeline, sum(1 for _ in tasks(config, there)), tally.tell, notify) as pool:
        fill(folder.add, plan, tasks(config, there), pool, tally.finish)


@contextlib.contextmanager
def _pool(
    config: GenerateConfig, pipeline: "Pipeline", blocks: int, tell: Tell, notify: Notify | None
) -> Iterator[Pool]:
    """Whoever draws the images: this process, others on this machine, or a cluster."""
    if config.ray is not None:
        from dgkit.generation.cluster import RayPool

        with RayPool(config, blocks, notify) as actors:
            yield actors
    elif config.workers == 0:
        with Maker(config, pipeline) as maker:
            yield Alone(maker, tell)
    else:
        from dgkit.generation.split import setups
        from dgkit.generation.workers import WorkerPool

        if config.engine != "torch" or config.engine_recipe:
            with pipeline:
                pass  # engines that are missing are built once, where ``notify`` hears of it
        assert isinstance(config.workers, int)  # chosen by now
        with WorkerPool(setups(config, pipeline, config.workers)[:blocks], tell, notify) as pool:
            yield pool
