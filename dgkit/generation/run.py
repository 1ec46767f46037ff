"""``generate``: label maps in, a folder of labelled scenes out; the same call again goes on where the last ended."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgkit.config import load_config, read_recipe
from dgkit.data.crops import CropRules
from dgkit.data.prompts import STYLE_MIXES, StyleMix, load_style_mix
from dgkit.errors import DgkitError, EngineError, InputError, UsageError
from dgkit.generation.config import DEFAULT_WORLD, GenerateConfig
from dgkit.generation.jobs import JobPlan, make_job
from dgkit.generation.records import GenerateResult
from dgkit.generation.sources import index_files, index_world, open_files
from dgkit.generation.writer import OutputFolder

if TYPE_CHECKING:
    from dgkit.data.datasets import Dataset
    from dgkit.diffusion.pipeline import Pipeline
    from dgkit.diffusion.presets import Preset
    from dgkit.engines.recipe import EngineRecipe

Notify = Callable[[str], None]
# (stage, done, total): stage "index" counts label maps, "generate" counts images, in fractions while they are drawn.
Progress = Callable[[str, float, float], None]


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
    ``contact_sheet.png``; nothing in it depends on how often the run was cut off. ``notify`` is told of engines that
    are built, and why.

    Raises UsageError for settings that are not allowed, InputError for label maps or a model that cannot be used,
    OutputError for a folder that is in use, was made with other settings or cannot be written, EngineError where the
    device fails.
    """
    started = time.perf_counter()
    config = _resolve_places(_settings(config, settings))
    report = progress or (lambda stage, done, total: None)
    folder = OutputFolder(Path(out))
    folder.check()
    mix, preset, dataset = _style_mix(config), _preset(config), open_files(config)
    from dgkit.diffusion.loading import load_pipeline
    from dgkit.diffusion.presets import GUIDANCE_SCALE

    pipeline = load_pipeline(
        config.model, config.controlnet, recipe=_engines(config), rebuild=config.rebuild, notify=notify
    )
    if preset.guidance_scale is None:
        own = pipeline.defaults.guidance_scale
        preset = dataclasses.replace(preset, guidance_scale=GUIDANCE_SCALE if own is None else own)
    config = config.model_copy(update={"guidance_scale": preset.guidance_scale})
    plan, config = _plan(config, dataset, pipeline, mix, report)
    model = str(pipeline.identity()["name"])
    with folder.opened(config):
        before = len(folder.records)
        report("generate", before, config.count)
        if before < config.count:
            with _memory_errors(config.batch), pipeline:  # entering it loads the weights
                _make_missing(folder, plan, pipeline, preset, config, report)
        folder.finish(f"{config.count} labelled scenes", _footnote(config, model))
    records = folder.in_order()
    seconds = time.perf_counter() - started
    return GenerateResult(folder.path, records, len(records) - before, before, seconds, model)


def _make_missing(
    folder: OutputFolder,
    plan: JobPlan,
    pipeline: "Pipeline",
    preset: "Preset",
    config: GenerateConfig,
    report: Progress,
) -> None:
    """Blocks of jobs are fixed by the job numbers, and one is computed whole even where some of its images are there:
    the last bit of a pixel may depend on what shares a batch, and must not depend on where a run was cut off."""
    from dgkit.diffusion.sampler import SceneRequest, sample

    block_size = max(1, config.batch // 2)  # two denoiser samples an image: with and without the text
    for start in range(0, config.count, block_size):
        numbers = range(start, min(start + block_size, config.count))
        missing = [number for number in numbers if number not in folder.records]
        if not missing:
            continue
        done = len(folder.records)

        def advance(step: int, steps: int, done: int = done, images: int = len(missing)) -> None:
            report("generate", done + images * step / max(steps, 1), config.count)

        jobs = [make_job(plan, number) for number in numbers]
        requests = [SceneRequest(job.label, job.prompt, job.seed) for job in jobs]
        results = sample(pipeline, requests, preset, batch=config.batch, progress=advance)
        for job, result in zip(jobs, results, strict=True):
            if job.index in missing:
                folder.write(job, result.image, result.prompt, result.retried)
        report("generate", len(folder.records), config.count)


def _settings(config: GenerateConfig | None, settings: dict[str, Any]) -> GenerateConfig:
    if config is None:
        return load_config(GenerateConfig, **settings)
    if settings:
        raise UsageError(
            f"a config and the settings {', '.join(settings)} were given, allowed is one of the two",
            "put the settings into the config",
        )
    return config


def _resolve_places(config: GenerateConfig) -> GenerateConfig:
    """Make the settings mean the same from any directory: they are written beside the images."""
    changes: dict[str, Any] = {}
    if config.labels is None and config.dataset is None:
        changes["world"] = config.world or DEFAULT_WORLD
    if config.labels is not None:
        changes["labels"] = config.labels.expanduser().absolute()
    if config.dataset is not None and "=" in config.dataset:
        name, _, root = config.dataset.partition("=")
        changes["dataset"] = f"{name.strip()}={Path(root).expanduser().absolute()}" if root else config.dataset
    for key in ("model", "controlnet"):
        place = getattr(config, key)
        if place is not None and Path(place).expanduser().exists():
            changes[key] = str(Path(place).expanduser().absolute())
    if isinstance(config.style_mix, str) and config.style_mix not in STYLE_MIXES:
        changes["style_mix"] = dict(load_style_mix(config.style_mix).weights)
    if config.engine_recipe is not None:
        changes["engine_recipe"] = _recipe_values(config.engine_recipe)
        recipe = _engines(config)
        changes.update(engine=recipe.engine, dtype=recipe.dtype)
    return config.model_copy(update=changes)


def _style_mix(config: GenerateConfig) -> StyleMix:
    if isinstance(config.style_mix, str):
        return load_style_mix(config.style_mix)
    return StyleMix("custom", config.style_mix)


def _preset(config: GenerateConfig) -> "Preset":
    from dgkit.diffusion.presets import find_preset

    changes = {key: getattr(config, key) for key in ("steps", "guidance_scale") if getattr(config, key) is not None}
    return dataclasses.replace(find_preset(config.preset), **changes)


def _engines(config: GenerateConfig) -> "EngineRecipe":
    from dgkit.engines.recipe import EngineRecipe

    flags = {"engine": config.engine, "dtype": config.dtype, "device": config.device}
    if config.engine_recipe is not None:
        flags = {} if config.device == "auto" else {"device": config.device}
    return load_config(EngineRecipe, **{**_recipe_values(config.engine_recipe), **flags})


def _recipe_values(recipe: Path | dict[str, Any] | None) -> dict[str, Any]:
    return read_recipe(recipe) if isinstance(recipe, Path) else recipe or {}


def _plan(
    config: GenerateConfig, dataset: "Dataset | None", pipeline: "Pipeline", mix: StyleMix, report: Progress
) -> tuple[JobPlan, GenerateConfig]:
    """What the jobs depend on, and the settings with everything filled in that the model and the label maps decide."""
    size = config.size or (pipeline.size, pipeline.size)
    pipeline.check_size(*size)
    height = pipeline.defaults.label_height

    def count(done: int, total: int) -> None:
        report("index", done, total)

    if dataset is None:
        index = index_world(config, height, size, count)
        scale = config.label_scale
    else:
        index = index_files(dataset, config, height, count)
        scale = index.scale
    rules = CropRules(size, config.min_pixels, config.min_share, config.attempts, config.temperature)
    found = {"source_digest": index.digest, "model_digest": str(pipeline.identity()["digest"])}
    for key, digest in found.items():
        wanted = getattr(config, key)
        if wanted is not None and wanted != digest:
            what = key.removesuffix("_digest")
            raise InputError(
                f"the {what} has digest {digest[:16]}..., the settings insist on {wanted[:16]}...",
                f"give the {what} that the settings were written for, or remove {key} from them",
            )
    resolved = config.model_copy(update={"size": size, "label_scale": scale, **found})
    return JobPlan(index, rules, mix, config.seed, config.rare), resolved


def _footnote(config: GenerateConfig, model: str) -> str:
    mix = config.style_mix if isinstance(config.style_mix, str) else "custom"
    return f"model {model} · preset {config.preset} · style mix {mix} · seed {config.seed}"


@contextlib.contextmanager
def _memory_errors(batch: int) -> Iterator[None]:
    try:
        yield
    except DgkitError:
        raise
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and "out of memory" not in text and "allocate memory" not in text:
            raise
        raise EngineError(
            f"not enough memory for --batch {batch}: {text.splitlines()[0] if text else 'allocation failed'}",
            f"use a smaller batch: --batch {max(1, batch // 2)}",
        ) from error
