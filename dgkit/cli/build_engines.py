"""``dgkit build-engines``: build ahead of time what each network of a model needs to run on a backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgkit.cli.common import chosen_model, inform, interruptible, print_json, print_table, progress_bars, size_text
from dgkit.cli.options import ControlNet, Json, Loras, Networks, Random, Rebuild, options_of, recipe_file, settings

if TYPE_CHECKING:
    from dgkit.diffusion.model_folder import ModelSource
    from dgkit.engines.build_plan import EngineStatus
    from dgkit.engines.engine_recipe import EngineRecipe


OPTIONS = "controlnet lora random networks engine dtype batch device targets refit recipe sets rebuild dry_run as_json"


@options_of("dgkit.engines.build_flags:BuildFlags", {"": OPTIONS})
def build_engines(
    flags: dict[str, Any],
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Model folder or hub id; default: embedded model")
    ] = None,
    controlnet: ControlNet = None,
    lora: Loras = None,
    random: Random = None,
    networks: Networks = "all",
    targets: Annotated[
        str | None, typer.Option("--for", metavar="SM,SM", help="Cards of TensorRT-RTX engines, such as sm89,sm120")
    ] = None,
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
    from dgkit.engines.engine_recipe import EngineRecipe, choose_networks

    given = _recipe_flags(flags, targets, is_stated=bool(recipe or sets))
    settings = load_config(EngineRecipe, recipe, sets or (), **given)
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


def _recipe_flags(flags: dict[str, Any], targets: str | None, is_stated: bool) -> dict[str, Any]:
    """Return the flags as settings of a recipe; ``is_stated``: a recipe or ``--set`` may state the engine.

    Otherwise ``--for`` and ``--refit`` select TensorRT.
    """
    from dgkit.engines.engine_recipe import parse_batch
    from dgkit.engines.trt_targets import parse_targets

    options: dict[str, Any] = {"batch": parse_batch(flags["batch"])} if "batch" in flags else {}
    trt: dict[str, Any] = {} if targets is None else {"targets": parse_targets(targets)}
    trt |= {"refit": True} if flags.get("refit") else {}
    engine = flags.get("engine") or ("trt" if trt and not is_stated else None)
    common = {name: flags.get(name) for name in ("dtype", "device")}
    return {"engine": engine, **common, "options": options | trt or None}


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
