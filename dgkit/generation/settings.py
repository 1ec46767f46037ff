"""From the settings of a run to what it is made of: places, style mix, preset, engines, and the plan of the jobs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgkit.config import load_config, read_recipe
from dgkit.data.crops import CropRules
from dgkit.data.style_mixes import STYLE_MIXES, StyleMix, load_style_mix
from dgkit.errors import InputError, UsageError
from dgkit.generation.agreement import judge_digest
from dgkit.generation.balance import Balance
from dgkit.generation.generate_config import DEFAULT_WORLD, GenerateConfig
from dgkit.generation.jobs import JobPlan
from dgkit.generation.sources import index_files, index_world

if TYPE_CHECKING:
    from dgkit.data.datasets import Dataset
    from dgkit.diffusion.pipeline import Pipeline
    from dgkit.diffusion.presets import Preset
    from dgkit.engines.engine_recipe import EngineRecipe

# (stage, done, total): stage "index" counts label maps, "generate" counts images, in fractions while they are drawn.
Progress = Callable[[str, float, float], None]


def given_settings(config: GenerateConfig | None, settings: dict[str, Any]) -> GenerateConfig:
    """The config, or one of single settings. Raises UsageError where both are given."""
    if config is None:
        return load_config(GenerateConfig, **settings)
    if settings:
        raise UsageError(
            f"a config and the settings {', '.join(settings)} were given, allowed is one of the two",
            "put the settings into the config",
        )
    return config


def resolve_places(config: GenerateConfig) -> GenerateConfig:
    """Make the settings mean the same from any directory: they are written beside the images."""
    changes: dict[str, Any] = {}
    if config.labels is None and config.dataset is None:
        changes["world"] = config.world or DEFAULT_WORLD
    if config.labels is not None:
        changes["labels"] = config.labels.expanduser().absolute()
    if config.dataset is not None and "=" in config.dataset:
        name, _, root = config.dataset.partition("=")
        changes["dataset"] = f"{name.strip()}={Path(root).expanduser().absolute()}" if root else config.dataset
    if config.judge is not None:
        changes["judge"] = config.judge.expanduser().absolute()
    for key in ("model", "controlnet"):
        place = getattr(config, key)
        if place is not None and Path(place).expanduser().exists():
            changes[key] = str(Path(place).expanduser().absolute())
    if isinstance(config.style_mix, str) and config.style_mix not in STYLE_MIXES:
        changes["style_mix"] = dict(load_style_mix(config.style_mix).weights)
    if config.engine_recipe is not None:
        changes["engine_recipe"] = _recipe_values(config.engine_recipe)
        recipe = chosen_engines(config)
        changes.update(engine=recipe.engine, dtype=recipe.dtype)
    return config.model_copy(update=changes)


def chosen_style_mix(config: GenerateConfig) -> StyleMix:
    """Raises UsageError for styles that do not exist, InputError for a file that cannot be read."""
    if isinstance(config.style_mix, str):
        return load_style_mix(config.style_mix)
    return StyleMix("custom", config.style_mix)


def chosen_preset(config: GenerateConfig) -> "Preset":
    """The sampler preset with the changes of the settings. Raises UsageError for one that does not exist."""
    from dgkit.diffusion.presets import find_preset

    changes = {key: getattr(config, key) for key in ("steps", "guidance_scale") if getattr(config, key) is not None}
    return dataclasses.replace(find_preset(config.preset), **changes)


def chosen_engines(config: GenerateConfig) -> "EngineRecipe":
    """Engine, number format and device of each network."""
    from dgkit.engines.engine_recipe import EngineRecipe

    flags: dict[str, Any] = {"engine": config.engine, "dtype": config.dtype, "device": config.device}
    if config.engine_recipe is not None:
        flags = {} if config.device == "auto" else {"device": config.device}
    if not config.cuda_graph:
        flags["options"] = {"cuda_graph": False}
    return load_config(EngineRecipe, _recipe_values(config.engine_recipe), **flags)


def _recipe_values(recipe: Path | dict[str, Any] | None) -> dict[str, Any]:
    return read_recipe(recipe) if isinstance(recipe, Path) else recipe or {}


def make_plan(
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
    if config.judge is not None:
        found["judge_digest"] = judge_digest(config.judge)
    for key, digest in found.items():
        wanted = getattr(config, key)
        if wanted is not None and wanted != digest:
            what = key.removesuffix("_digest")
            raise InputError(
                f"the {what} has digest {digest[:16]}..., the settings insist on {wanted[:16]}...",
                f"give the {what} that the settings were written for, or remove {key} from them",
            )
    guidance = chosen_preset(config).guidance(pipeline.defaults.guidance_scale)
    resolved = config.model_copy(update={"size": size, "label_scale": scale, "guidance_scale": guidance, **found})
    balanced = config.balance_classes or config.balance_styles
    balance = Balance(config.balance_classes, config.balance_styles) if balanced else None
    return JobPlan(index, rules, mix, config.seed, config.rare, balance), resolved


def footnote(config: GenerateConfig, model: str) -> str:
    """What the contact sheet says about a run."""
    mix = config.style_mix if isinstance(config.style_mix, str) else "custom"
    return f"model {model} · preset {config.preset} · style mix {mix} · seed {config.seed}"
