"""``dgkit build-engines``: what each network of a model needs to run on a backend, built ahead of time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgkit.cli.common import chosen_model, console, print_json, print_table, say, size_text

if TYPE_CHECKING:
    from dgkit.diffusion.model_folder import ModelSource
    from dgkit.engines.build_plan import EngineStatus
    from dgkit.engines.engine_recipe import EngineRecipe

WHAT, HOW, RUN = "Model", "Engines", "Run"


def _option(names: str, text: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(*names.split(), help=text, rich_help_panel=panel, metavar=metavar, show_default=False)


def build_engines(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Model folder or hub id; by default the embedded model.")
    ] = None,
    controlnet: Annotated[
        str | None, _option("--controlnet", "ControlNet folder or hub id; by default that of the model.", WHAT, "C")
    ] = None,
    random: Annotated[
        str | None, _option("--random", "Random weights instead: sd15, city or tiny.", WHAT, "NAME")
    ] = None,
    networks: Annotated[
        str, _option("--networks", "Networks, separated by commas (default: all).", WHAT, "N,N")
    ] = "all",
    engine: Annotated[
        str | None, _option("--engine", "ort (default), openvino, compile or trt.", HOW, "ENGINE")
    ] = None,
    dtype: Annotated[str | None, _option("--dtype", "fp32 (default), bf16, fp16 or int8.", HOW, "D")] = None,
    batch: Annotated[
        str | None, _option("--batch", "Samples a call: fewest, usual, most (default: 1,8,64).", HOW, "MIN,OPT,MAX")
    ] = None,
    device: Annotated[str | None, _option("--device", "auto, cpu, cuda or cuda:N.", HOW, "D")] = None,
    recipe: Annotated[Path | None, _option("--recipe", "YAML file such as engines/cpu.yaml.", HOW, "FILE")] = None,
    assignments: Annotated[
        list[str] | None,
        _option("--set", "Any other setting, such as options.workspace_gib=4; repeatable.", HOW, "KEY=VALUE"),
    ] = None,
    rebuild: Annotated[
        str, _option("--rebuild", "never, auto (default: what is missing or stale) or always.", RUN, "POLICY")
    ] = "auto",
    dry_run: Annotated[bool, _option("--dry-run", "Only say what would be built, and why.", RUN)] = False,
    as_json: Annotated[bool, _option("--json", "Print the outcome as JSON on stdout.", RUN)] = False,
) -> None:
    """Build the engines that generate runs with the same engine, dtype and device.

    Settings: RECIPE < --set < flags. What is there and fits is kept.
    """
    from dgkit.config import load_config
    from dgkit.diffusion.loading import open_model
    from dgkit.engines.build_plan import first_problem
    from dgkit.engines.engine_recipe import EngineRecipe, choose_networks, parse_batch

    options = None if batch is None else {"batch": parse_batch(batch)}
    flags: dict[str, Any] = {"engine": engine, "dtype": dtype, "device": device, "options": options}
    settings = load_config(EngineRecipe, recipe, assignments or (), **flags)
    chosen = choose_networks(networks)
    found = open_model(chosen_model(model, random), controlnet)
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
    from dgkit.diffusion.loading import model_networks
    from dgkit.engines.build_plan import build, inspect
    from dgkit.engines.store import check_policy

    outcomes = []
    networks = {name: network for name, network in model_networks(model).items() if name in names}
    runners = recipe.runners(networks, check_policy(rebuild), say)
    for number, (name, runner) in enumerate(runners.items(), 1):
        engine = recipe.choice(name)[0]
        with console().status(f"{name} for {engine} in {runner.dtype_name}, {number} of {len(runners)}"):
            outcomes.append((inspect if dry_run else build)(name, engine, runner))
        model.release()  # a build may have rounded the parts, and the next network needs the memory
    return outcomes


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

    from dgkit.engines.build_plan import verdict

    table = Table()
    for heading in ("network", "engine", "dtype", "device", "state", "seconds", "size", "error", "why"):
        right = heading in ("seconds", "size", "error")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for item in outcomes:
        state = verdict(rebuild, item) if dry_run else item.state
        figures = (
            f"{item.seconds:.1f}" if item.seconds else "",
            size_text(item.size) if item.engines else "",
            "" if item.error is None else f"{item.error:.1e}{' (graph)' if item.error_of == 'graph' else ''}",
        )
        table.add_row(item.network, item.engine, item.dtype, item.device, state, *figures, escape(item.reason))
    print_table(table)
