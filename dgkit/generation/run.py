"""``generate``: label maps in, a folder of labelled scenes out; the same call again resumes an interrupted run."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgkit.diffusion.part_config import import_classes
from dgkit.files import user_path
from dgkit.generation.blocks import Block, missing_blocks, refuse_empty_shard, total_images
from dgkit.generation.city_source import drawing_ahead
from dgkit.generation.defaults import adapter_note, needs_modules, preset_note, require_engine, settle, with_preset
from dgkit.generation.flow import ImageProgress, InProcessPool, Pool, fill
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.jobs import JobPlan
from dgkit.generation.result import GenerateResult
from dgkit.generation.resuming import run_settings, with_spacing
from dgkit.generation.run_speed import record_run
from dgkit.generation.scene_generator import SceneGenerator
from dgkit.generation.settings import checked_mix, chosen_engines, footnote, for_model, make_config, make_plan
from dgkit.generation.sources import open_files
from dgkit.generation.word_notes import word_notes
from dgkit.generation.writer import OutputFolder
from dgkit.imports import collection_paused
from dgkit.progress import Notify, Progress, ignore, within
from dgkit.texts import count_of

if TYPE_CHECKING:
    import numpy as np

    from dgkit.data.samples import Dataset
    from dgkit.diffusion.model_folder import ModelInfo
    from dgkit.diffusion.pipeline import Pipeline


def generate(
    out: str | Path,
    config: GenerateConfig | None = None,
    *,
    labels: str | Path | Iterable["np.ndarray"] | None = None,
    progress: Progress | None = None,
    notify: Notify | None = None,
    **settings: Any,
) -> GenerateResult:
    """Generate ``count`` images, each with its label map, in the folder ``out``.

    Pass a whole ``config``, or single settings of :class:`GenerateConfig` as keywords. ``labels`` is a folder of label
    maps, or the maps themselves, integer arrays [H, W] of train ids (or of ids in ``encoding``); config.yaml then keeps
    their number and the digest of their content, and resuming needs the same arrays. Existing images are kept, so the
    call resumes an interrupted run. Afterwards ``out`` holds ``images/<id>.png`` (8-bit RGB),
    ``labels/<id>_labelTrainIds.png`` (8-bit, train ids 0..18 or 255), ``vis/``, ``manifest.jsonl``, ``config.yaml`` and
    ``contact_sheet.png``; their content does not depend on interruptions. With a judge or a boundary it also holds
    filtered labels, see :func:`~dgkit.generation.filter_folder.filter_folder`. With ``shard`` the folder is one part of
    the run, for :func:`~dgkit.generation.merging.merge`.

    ``progress`` reports the stage "city" (drawing) or "index" (reading), in label maps, "generate", in images and
    fractions of them, and those of ``filter_folder``. ``notify`` gets a line for each engine that is built, and why,
    for each worker that died, for classes that the judge lacks, and for label maps that are scaled to fill the images
    or do not fill them.

    Raises UsageError for settings that are not allowed, InputError for label maps or a model that cannot be used,
    OutputError for a folder that is in use, was made with other settings or cannot be written, EngineError if the
    device fails.
    """
    if isinstance(labels, str | Path):
        settings["labels"], labels = labels, None
    labels = None if labels is None else list(labels)
    folder = OutputFolder(user_path(out))
    config = run_settings(folder, make_config(config, settings, labels))
    return generate_into(folder, config, progress or ignore, notify, labels)


def generate_into(
    folder: OutputFolder,
    config: GenerateConfig,
    progress: Progress,
    notify: Notify | None,
    arrays: Sequence["np.ndarray"] | None = None,
) -> GenerateResult:
    """Generate the missing images of a folder, which may be locked already, by settings with absolute paths.

    ``arrays`` are the label maps of settings that state a number of ``arrays``.
    """
    started = time.perf_counter()
    refuse_empty_shard(config)
    own = config.model is None and config.controlnet is None
    dataset = open_files(config, arrays) if own else None  # other models may have classes of their own
    folder.check()
    # From the start, so that verify --repair does not take images that this run is about to make for missing ones.
    with folder.locked() if folder.path.is_dir() else contextlib.nullcontext():
        return _generate(folder, config, dataset, arrays, progress, notify, started)


def _generate(
    folder: OutputFolder,
    config: GenerateConfig,
    dataset: "Dataset | None",
    arrays: "Sequence[np.ndarray] | None",
    progress: Progress,
    notify: Notify | None,
    started: float,
) -> GenerateResult:
    mix = checked_mix(config)
    if folder.config_path.is_file():
        require_engine(config, folder.path)
    from dgkit.diffusion.model_opening import open_model

    source = open_model(config.model, config.controlnet, config.lora)
    config = for_model(config, source.info)
    dataset = open_files(config, arrays) if dataset is None else dataset

    def load(config: GenerateConfig) -> "Pipeline":
        from dgkit.diffusion.loading import load_pipeline

        return load_pipeline(source, recipe=chosen_engines(config), rebuild=config.rebuild, notify=notify)

    preset, config = config.preset, with_preset(config, source.info)
    config = with_spacing(folder, config, source.info.scheduler)
    with _city_ahead(config, dataset, source.info, progress) as is_drawing, collection_paused():
        pipeline = load(config)
        if config.ray is None:  # the nodes of a cluster have engines of their own
            pipeline.check()
        pipeline.check_size(*(config.size or (pipeline.size, pipeline.size)))
        if is_drawing and needs_modules(config):
            import_classes()
    plan, config = make_plan(config, dataset, pipeline, mix, progress, notify)
    if preset is None and notify is not None:
        notify(preset_note(config, source.info, plan, config.model is None))
    note = adapter_note(config, source.info)
    if note is not None and notify is not None:
        notify(note)
    config, pipeline = settle(config, source, plan, load, progress, notify)
    model = source.info.name
    with folder.opened(config):
        before = len(folder.records)
        if before < total_images(config) and config.ray is None:
            pipeline.build_engines(progress)
        progress("generate", before, total_images(config))
        if before < total_images(config):
            _generate_missing(folder, plan, pipeline, config, progress, notify)
        folder.finish(count_of(len(folder.records), "labelled scene"), footnote(config, model), source.info.taxonomy)
        from dgkit.generation.filter_folder import write_filtered_labels

        write_filtered_labels(folder.path, config, progress)
    records = folder.located_records()
    seconds = time.perf_counter() - started
    pixels, built = tuple(int(count) for count in plan.index.counts.sum(axis=0)), pipeline.build_seconds
    return GenerateResult(folder.path, records, len(records) - before, before, seconds, model, pixels, built)


def _city_ahead(
    config: GenerateConfig, dataset: "Dataset | None", info: "ModelInfo", progress: Progress
) -> contextlib.AbstractContextManager[bool]:
    if dataset is not None:
        return contextlib.nullcontext(False)
    return drawing_ahead(config, info, within(progress, "city"))


def _generate_missing(
    folder: OutputFolder,
    plan: JobPlan,
    pipeline: "Pipeline",
    config: GenerateConfig,
    progress: Progress,
    notify: Notify | None,
) -> None:
    if config.judge is not None and notify is not None:  # here, since each worker opens the judge again
        from dgkit.generation.agreement import judge_notes

        for note in judge_notes(config.judge, pipeline.info.taxonomy):
            notify(note)
    if notify is not None:
        for note in word_notes(plan, pipeline, config.guidance_scale):
            notify(note)
    images = ImageProgress(len(folder.records), total_images(config), within(progress, "generate"))
    existing = set(folder.records)
    blocks = sum(1 for _ in missing_blocks(config, existing))
    try:
        with _pool(config, pipeline, blocks, images.update, notify) as pool:
            started = time.perf_counter()
            fill(folder.add, plan, missing_blocks(config, existing), pool, images.finish)
            seconds = time.perf_counter() - started
    except KeyboardInterrupt as stop:
        dropped = f", {count_of(images.unfinished, 'unfinished image')} dropped" if images.unfinished else ""
        stop.add_note(
            f"{len(folder.records)} of {count_of(total_images(config), 'image')} are in {folder.path}{dropped}"
        )
        raise
    record_run(config, pipeline, len(folder.records) - len(existing), seconds)


@contextlib.contextmanager
def _pool(
    config: GenerateConfig,
    pipeline: "Pipeline",
    blocks: int,
    update: Callable[[Block, float], None],
    notify: Notify | None,
) -> Iterator[Pool]:
    """Yield what generates the images: this process, worker processes, or a cluster."""
    if config.ray is not None:
        from dgkit.generation.cluster import RayPool

        with RayPool(config, blocks, notify) as actors:
            yield actors
    elif config.workers == 0:
        with SceneGenerator(config, pipeline, notify) as generator:
            yield InProcessPool(generator, update)
    else:
        from dgkit.generation.worker_setup import worker_setups
        from dgkit.generation.workers import WorkerPool

        assert isinstance(config.workers, int)  # "auto" is resolved by now
        with WorkerPool(worker_setups(config, pipeline, config.workers)[:blocks], update, notify) as pool:
            yield pool
