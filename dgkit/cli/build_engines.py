"""``dgkit build-engines``: build ahead of time what each network of a model needs to run on a backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgkit.cli.common import chosen_model, inform, interruptible, print_json, print_table, progress_bars, size_text
from dgkit.cli.options import ControlNet, Json, Loras, Networks, Random, Rebuild, option, recipe_file, settings

if TYPE_CHECKING:
    from dgkit.diffusion.model_folder import ModelSource
    from dgkit.engines.build_plan import EngineStatus
    from dgkit.engines.engine_recipe import EngineRecipe


def build_engines(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Model folder or hub id; default: embedded model")
    ] = None,
    controlnet: ControlNet = None,
    lora: Loras = None,
    random: Random = None,
    networks: Networks = "all",
    engine: Annotated[str | None, option("ENGINE", "ort (default), openvino, compile or trt")] = None,
    dtype: Annotated[str | None, option("D", "fp32 (default), bf16, fp16, int8 or fp8")] = None,
    batch: Annotated[
        str | None, option("MIN,OPT,MAX", "Samples per call: fewest, usual, most; default: 1,8,64")
    ] = None,
    device: Annotated[str | None, option("D", "auto (default), cpu, cuda or cuda:N")] = None,
    targets: Annotated[
        str | None, typer.Option("--for", metavar="SM,SM", help="Cards of TensorRT-RTX engines, such as sm89,sm120")
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="TensorRT: engines that take new weights in seconds, on a GPU")
    ] = False,
    recipe: Annotated[Path | None, recipe_file("engines/cpu.yaml")] = None,
    sets: Annotated[list[str] | None, settings("options.workspace_gib=4")] = None,
    rebuild: Rebuild = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be built, and why")] = False,
    as_json: Json = False,
) -> None:
    """Build the engines that dgkit generate uses with the same engine, dtype and device.

    Valid engines are kept. Flags override --set, which overrides RECIPE.
    """
    from dgkit.config import load_config
    from dgkit.diffusion.loading import open_model
    from dgkit.engines.build_plan import first_problem
    from dgkit.engines.engine_recipe import EngineRecipe, choose_networks, parse_batch
    from dgkit.engines.trt_targets import parse_targets

    options: dict[str, Any] = {} if batch is None else {"batch": parse_batch(batch)}
    if targets is not None or refit:
        options |= {"targets": parse_targets(targets)} if targets is not None else {}
        options |= {"refit": True} if refit else {}
        engine = engine or (None if recipe or sets else "trt")
    flags: dict[str, Any] = {"engine": engine, "dtype": dtype, "device": device, "options": options or None}
    settings = load_config(EngineRecipe, recipe, sets or (), **flags)
    chosen = choose_networks(networks)
    found = open_model(chosen_model(model, random), controlnet, lora or ())
    outcomes = _build(found, settings, chosen, rebuild, dry_run)
    if as_json:
        print_json({"model": found.info.name, "dry_run": dry_run, "networks": [_as_dict(item) for item in outcomes]})
    else:
        _print_table(outcomes, dry_run, rebuild)
    problem = first_problem(outcomes)
    if problem and not dry_run:
        raise problem


def _build(
    model: ModelSource, recipe: EngineRecipe, names: tuple[str, ...], rebuild: str, dry_run: bool
) -> list[EngineStatus]:
    from dgkit.diffusion.loading import build_helper, model_networks
    from dgkit.engines.build_plan import build_all, inspect
    from dgkit.engines.store import check_policy

    networks = {name: network for name, network in model_networks(model).items() if name in names}
    runners = recipe.runners(networks, check_policy(rebuild), inform)
    if dry_run:
        return [inspect(name, runner.engine, runner) for name, runner in runners.items()]
    helper = build_helper(model, recipe)
    with interruptible(), progress_bars() as progress:
        return build_all(runners, progress, release=model.release, helper=helper)


def _as_dict(item: EngineStatus) -> dict[str, Any]:
    return {
        "network": item.network,
        "engine": item.engine,
        "dtype": item.dtype,
        "device": item.device,
        "state": item.state,
        "reason": item.reason,
        "hint": item.hint,
        "seconds": round(item.seconds, 3),
        "bytes": item.size,
        "error": item.error,
        "error_of": item.error_of,
        "ids": [engine.name for engine in item.engines],
    }


def _print_table(outcomes: list[EngineStatus], dry_run: bool, rebuild: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    from dgkit.engines.build_plan import planned_action

    table = Table()
    for heading in ("network", "engine", "dtype", "device", "state", "seconds", "size", "error", "why"):
        right = heading in ("seconds", "size", "error")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for item in outcomes:
        state = planned_action(rebuild, item) if dry_run else item.state
        figures = (
            f"{item.seconds:.1f}" if item.seconds else "",
            size_text(item.size) if item.engines else "",
            "" if item.error is None else f"{item.error:.1e}{' (graph)' if item.error_of == 'graph' else ''}",
        )
        table.add_row(item.network, item.engine, item.dtype, item.device, state, *figures, escape(item.reason))
    print_table(table)
