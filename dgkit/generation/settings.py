"""From the settings of a run to its parts: absolute paths, style mix, preset, engines and the plan of the jobs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgkit.config import load_config, read_recipe
from dgkit.data.crops import CropRules
from dgkit.data.style_mixes import StyleMix, load_style_mix, make_mix, read_shares
from dgkit.errors import InputError, UsageError, one_line
from dgkit.files import user_path
from dgkit.generation.balance import Balance
from dgkit.generation.city_source import index_world
from dgkit.generation.generate_config import DEFAULT_PRESET, DEFAULT_WORLD, GenerateConfig
from dgkit.generation.job_table import read_jobs
from dgkit.generation.jobs import JobPlan
from dgkit.generation.sources import cut_note, index_files, padding_note
from dgkit.progress import Notify, Progress, within
from dgkit.prompts import Wording
from dgkit.styles import NO_STYLE, make_style
from dgkit.taxonomies import CITYSCAPES19, find_taxonomy, mixed

if TYPE_CHECKING:
    import numpy as np

    from dgkit.data.samples import Dataset
    from dgkit.diffusion.model_folder import ModelInfo
    from dgkit.diffusion.pipeline import Pipeline
    from dgkit.diffusion.presets import Preset
    from dgkit.engines.engine_recipe import EngineRecipe

EIGHT_BITS = {"int8": "openvino", "fp8": "trt"}  # the engine for a number format if none is stated


def make_config(
    config: GenerateConfig | None, settings: dict[str, Any], arrays: Sequence["np.ndarray"] | None = None
) -> GenerateConfig:
    """Return ``config``, or a config of single ``settings``; with the number of ``arrays``. UsageError for both."""
    if arrays is not None:
        values = {} if config is None else config.model_dump(mode="json", exclude_unset=True)
        values["arrays"] = len(arrays)
        if config is None:
            return load_config(GenerateConfig, values, **settings)
        config = load_config(GenerateConfig, values)
    if config is None:
        return load_config(GenerateConfig, **settings)
    if settings:
        raise UsageError(
            f"a config cannot be combined with single settings ({', '.join(settings)})",
            "put the settings into the config",
        )
    return config


def resolve_paths(config: GenerateConfig) -> GenerateConfig:
    """Return the settings with absolute paths, so that the config.yaml in the output folder works from anywhere."""
    changes: dict[str, Any] = {}
    if all(getattr(config, name) is None for name in ("jobs", "labels", "dataset", "arrays")):
        changes["world"] = config.world or DEFAULT_WORLD
    if config.labels is not None:
        changes["labels"] = user_path(config.labels).absolute()
    if config.dataset is not None and "=" in config.dataset:
        name, _, root = config.dataset.partition("=")
        changes["dataset"] = f"{name.strip()}={_absolute(root)}" if root else config.dataset
    system, at, file = (config.encoding or "").partition("@")
    if at:
        changes["encoding"] = f"{system}@{user_path(file).absolute()}"
    if config.judge is not None:
        changes["judge"] = user_path(config.judge).absolute()
    for key in ("model", "controlnet"):
        path = getattr(config, key)
        if path is not None and user_path(path).exists():
            changes[key] = str(user_path(path).absolute())
    if config.lora:
        changes["lora"] = tuple(map(_absolute_lora, config.lora))
    changes["style_mix"] = _written_shares(config)
    mix = chosen_style_mix(config.model_copy(update={"style_mix": changes["style_mix"]}))
    if config.jobs is not None:
        changes["jobs"] = user_path(config.jobs).absolute()
        changes["count"] = _count_of_jobs(config, changes["jobs"], mix)
    if config.engine_recipe is not None:
        changes["engine_recipe"] = _recipe_values(config.engine_recipe)
        recipe = chosen_engines(config)
        changes.update(engine=recipe.engine, dtype=recipe.dtype)
    return config.model_copy(update=changes)


def for_model(config: GenerateConfig, model: "ModelInfo") -> GenerateConfig:
    """Return the settings with the classes of ``model``.

    Raises InputError if the settings require others, UsageError for words of a class that does not exist.
    """
    found = model.taxonomy
    if config.taxonomy is not None and find_taxonomy(config.taxonomy) != found:
        raise mixed(find_taxonomy(config.taxonomy), found, f"the model {model.name}")
    config = config.model_copy(update={"taxonomy": found.recorded()})
    chosen_wording(config)
    return config


def _absolute_lora(text: str) -> str:
    """Return a LoRA with the absolute path of its file; a hub id unchanged."""
    source, colon, scale = text.rpartition(":")
    if user_path(text).exists() or not colon:
        source, colon, scale = text, "", ""
    return f"{user_path(source).absolute()}{colon}{scale}" if user_path(source).exists() else text


def _absolute(root: str) -> str:
    """Return the folder of a data set, or its two patterns and their encoding, with absolute paths."""
    images, separator, rest = root.partition("::")
    labels, second, encoding = rest.partition("::")
    system, at, file = encoding.partition("@")
    encoding = f"{system}@{user_path(file).absolute()}" if at else encoding
    paths = [str(user_path(path).absolute()) for path in (images, *([labels] if separator else []))]
    return "::".join(paths) + second + encoding


def _written_shares(config: GenerateConfig) -> str | dict[str, Any]:
    """Return the style mix by name, or the content of a file of styles. Raises as :func:`read_shares`."""
    shares = config.shares
    return read_shares(shares, config.styles) if isinstance(shares, str) else shares


def _count_of_jobs(config: GenerateConfig, path: Path, mix: StyleMix) -> int:
    table = read_jobs(path)
    for row in table.rows:
        try:
            mix.style(row.style or NO_STYLE)  # an unknown one fails before the model is loaded
        except UsageError as error:
            raise UsageError(f"{path}, line {row.line}: {error.message}", error.hint) from error
    if "count" in config.model_fields_set and config.jobs_digest in (None, table.digest):
        check_count(config.count, len(table.rows))
    return len(table.rows)


def check_count(count: int, rows: int) -> None:
    """Raise UsageError unless the number of images is that of the rows of the table of jobs."""
    if count != rows:
        raise UsageError(f"--count {count} with a table of {rows} jobs: each row is one image", "drop --count")


def chosen_style_mix(config: GenerateConfig) -> StyleMix:
    """Return the style mix, joined by own styles.

    Raises UsageError for unknown styles, InputError for a file that cannot be read.
    """
    shares, own = config.shares, {name: make_style(name, entry) for name, entry in config.styles.items()}
    return load_style_mix(shares, own) if isinstance(shares, str) else make_mix("custom", shares, own)


def checked_mix(config: GenerateConfig) -> StyleMix:
    """Return the style mix; whatever can be checked before a model is loaded is checked.

    Raises UsageError for unknown styles or an unknown preset, InputError for a file that cannot be read.
    """
    mix = chosen_style_mix(config)
    chosen_preset(config)
    return mix


def chosen_wording(config: GenerateConfig) -> Wording:
    """Return how the prompts are worded. Raises UsageError for a class that does not exist."""
    taxonomy = CITYSCAPES19 if config.taxonomy is None else find_taxonomy(config.taxonomy)
    return Wording(config.prompt_template, config.class_words, config.class_limit, taxonomy)


def chosen_preset(config: GenerateConfig) -> "Preset":
    """Return the sampler preset with the changes of the settings. Raises UsageError for an unknown preset."""
    from dgkit.diffusion.presets import find_preset

    keys = ("steps", "guidance_scale", "spacing")
    changes = {key: getattr(config, key) for key in keys if getattr(config, key) is not None}
    return dataclasses.replace(find_preset(config.preset or DEFAULT_PRESET), **changes)


def chosen_engines(config: GenerateConfig) -> "EngineRecipe":
    """Return engine, number format and device of each network."""
    from dgkit.engines.engine_recipe import EngineRecipe

    # What is left to dgkit is chosen once the model and the label maps are known; until then any engine will do.
    engine = "torch" if config.engine == "auto" else config.engine
    chosen = config.engine == "auto" and config.dtype in EIGHT_BITS
    dtype = "fp32" if config.dtype == "auto" or chosen else config.dtype
    flags: dict[str, Any] = {"engine": engine, "dtype": dtype, "device": config.device}
    if config.engine_recipe is not None:
        flags = {} if config.device == "auto" else {"device": config.device}
    if not config.cuda_graph:
        flags["options"] = {"cuda_graph": False}
    return load_config(EngineRecipe, _recipe_values(config.engine_recipe), **flags)


def _recipe_values(recipe: Path | dict[str, Any] | None) -> dict[str, Any]:
    return read_recipe(recipe) if isinstance(recipe, Path) else recipe or {}


def make_plan(
    config: GenerateConfig,
    dataset: "Dataset | None",
    pipeline: "Pipeline",
    mix: StyleMix,
    progress: Progress,
    notify: Notify | None = None,
) -> tuple[JobPlan, GenerateConfig]:
    """Return the plan of the jobs, and the settings with the values that model and label maps determine filled in.

    ``dataset`` None: the procedural city. ``progress`` reports the stage "city" or "index", in label maps.
    ``notify`` gets a line about a label scale that was chosen to fill the images, and about label maps that do not.

    Raises LabelError for label maps that cannot be read, InputError for a source, model or judge with another digest
    than the settings state.
    """
    size = config.size or (pipeline.size, pipeline.size)
    pipeline.check_size(*size)
    height = pipeline.defaults.label_height

    if dataset is None:
        index = index_world(config, height, size, within(progress, "city"))
        scale = config.label_scale
    else:
        index = index_files(dataset, config, height, size, within(progress, "index"), notify)
        scale = index.scale
    padding = padding_note(index, size)
    if padding is not None and notify is not None:
        notify(padding)
    rules = CropRules(size, config.min_pixels, config.min_share, config.attempts, config.temperature)
    classes = find_taxonomy(config.taxonomy)
    identity = pipeline.identity()
    found = {"source_digest": index.digest, "model_digest": str(identity["digest"])}
    if config.lora:
        found["lora_digest"] = ",".join(lora["digest"] for lora in identity["loras"])
    table = None if config.jobs is None else read_jobs(config.jobs, config.encoding, classes)
    if table is not None:
        found["jobs_digest"] = table.digest
        note = cut_note(index, size)
        if note is not None and notify is not None:
            notify(note)
    if config.judge is not None:
        from dgkit.generation.agreement import judge_digest

        found["judge_digest"] = judge_digest(config.judge)
    for key, digest in found.items():
        required = getattr(config, key)
        if required is not None and required != digest:
            name = key.removesuffix("_digest")
            raise InputError(
                f"the {name} has digest {digest[:16]}..., the settings require {required[:16]}...",
                f"use the {name} that the settings were written for, or remove {key} from them",
            )
    guidance = chosen_preset(config).guidance(pipeline.defaults.guidance_scale)
    resolved = config.model_copy(update={"size": size, "label_scale": scale, "guidance_scale": guidance, **found})
    balanced = config.balance_classes or config.balance_styles
    balance = Balance(config.balance_classes, config.balance_styles, classes.size) if balanced else None
    rows = None if table is None else table.rows
    words = chosen_wording(config)
    return JobPlan(index, rules, mix, config.seed, config.rare, balance, rows, words, config.negative_prompt), resolved


def footnote(config: GenerateConfig, model: str) -> str:
    """Return the description of a run on its contact sheet."""
    return f"model {model} · preset {config.preset} · style mix {_mix_name(config)} · seed {config.seed}"


def _mix_name(config: GenerateConfig) -> str:
    """Return the name of the style mix followed by those of own styles, as far as there is room."""
    if config.shares and not config.styles:
        return config.shares if isinstance(config.shares, str) else "custom"
    shares = [config.shares] if isinstance(config.shares, str) else list(config.shares)
    return one_line(", ".join(dict.fromkeys([*shares, *config.styles])), 60)
