"""Recipes, --set options and style mixes."""

from __future__ import annotations

import importlib
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from dgkit.config import dump_config, load_config
from tests.fuzz.checks import attempt, command
from tests.fuzz.documents import damage_yaml
from tests.fuzz.mutations import (
    RAW_YAML,
    YAML_DOCUMENTS,
)

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = (
    "dgkit.generation.generate_config:GenerateConfig",
    "dgkit.generation.filter_config:FilterConfig",
    "dgkit.engines.engine_recipe:EngineRecipe",
    "dgkit.evaluation.benchmark.eval_config:EvalConfig",
    "dgkit.bench.bench_config:BenchConfig",
    "dgkit.training.city.city_recipe:CityRecipe",
    "dgkit.training.diffusion.diffusion_recipes:DiffusionRecipe",
    "dgkit.training.judge.judge_recipe:JudgeRecipe",
    "dgkit.segmenters.segmenter_sidecar:SegmenterSideCar",
)


def _config_class(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def make_recipes(folder: Path) -> None:
    (folder / "x.yaml").touch()
    for name in CONFIGS:
        with suppress(Exception):  # a class with required fields has no defaults to write
            (folder / f"{name.rpartition(':')[2]}.default").write_text(dump_config(_config_class(name)()))
    for path in (*(ROOT / "engines").glob("*.yaml"), *(ROOT / "training").rglob("*.yaml")):
        shutil.copy(path, folder / f"{path.stem}.own")


def damage_recipe(rng: random.Random, folder: Path) -> None:
    sources = sorted([*folder.glob("*.default"), *folder.glob("*.own")])
    value = yaml.safe_load(rng.choice(sources).read_text())
    damage_yaml(rng, folder / "x.yaml", value)


def read_recipe_file(rng: random.Random, folder: Path) -> None:
    path = folder / "x.yaml"
    names = rng.sample(CONFIGS, 2)
    sets = [_assignment(rng, _config_class(names[0]))] if rng.random() < 0.3 else []

    def segmenter() -> None:
        from dgkit.training.segmenter.segmenter_recipe import load_segmenter

        load_segmenter(path)

    def load(name: str) -> None:
        dump_config(load_config(_config_class(name), path))

    attempt(
        *(lambda name=name: load(name) for name in names),  # type: ignore[misc]
        lambda: load_config(_config_class(names[0]), None, sets),
        lambda: segmenter() if rng.random() < 0.2 else None,
        lambda: (
            command("generate", folder / "out", "--recipe", path, "--set", "model=/nowhere")
            if rng.random() < 0.05
            else None
        ),
    )


def _assignment(rng: random.Random, cls: Any) -> str:
    key = rng.choice([*cls.model_fields, "a", "a.b", ""])
    return f"{key}={rng.choice((*RAW_YAML, *YAML_DOCUMENTS))}"


def make_mix(folder: Path) -> None:
    (folder / "mix.yaml").write_text("snowy: 1\nnight: 0.5\nnone: 2\n")


def read_mix(rng: random.Random, folder: Path) -> None:
    from dgkit.data.style_mixes import load_style_mix

    _ = load_style_mix(folder / "mix.yaml").probabilities
