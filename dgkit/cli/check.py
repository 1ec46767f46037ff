"""``dgkit engines check``: compare the outputs of two engines."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgkit.cli.common import chosen_model, inform, print_json, print_table, say
from dgkit.cli.options import ControlNet, Json, Loras, Model, Networks, Random, Rebuild, option

if TYPE_CHECKING:
    from dgkit.engines.compare import OutputCheck
    from dgkit.engines.layers import LayerReport
    from dgkit.engines.runner import Network


def check(
    first: Annotated[str, typer.Argument(metavar="A", help="Reference: an engine, or engine:dtype (torch:bf16)")],
    second: Annotated[str, typer.Argument(metavar="B", help="Engine to compare with it")],
    model: Model = None,
    controlnet: ControlNet = None,
    lora: Loras = None,
    random: Random = None,
    networks: Networks = "all",
    batch: Annotated[int, option("N", "Samples per call")] = 2,
    device: Annotated[str, option("D", "cpu, cuda or cuda:N")] = "cpu",
    rebuild: Rebuild = "auto",
    worst_layer: Annotated[
        bool, typer.Option("--worst-layer", help="Also compare every layer, where the engines expose them")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the networks of a model on two engines with the same inputs and compare the outputs.

    It is an error if outputs differ by more than the tolerance of the less precise engine, or are not finite.
    """
    from dgkit.diffusion.loading import model_networks, open_model
    from dgkit.engines.compare import Comparison, EngineSpec, check_network
    from dgkit.engines.engine_recipe import choose_networks
    from dgkit.engines.store import check_policy
    from dgkit.errors import EngineError

    sides, policy = (EngineSpec.parse(first), EngineSpec.parse(second)), check_policy(rebuild)
    opened = open_model(chosen_model(model, random), controlnet, lora or ())

    def load(name: str) -> Network:
        opened.release()
        return model_networks(opened)[name]

    checks, reports = [], []
    for name in choose_networks(networks):
        comparison = Comparison(partial(load, name), *sides, device=device, batch=batch, rebuild=policy, notify=inform)
        checks += check_network(comparison)
        if worst_layer:
            from dgkit.engines.layers import check_layers

            reports.append(check_layers(comparison))
    if as_json:
        layers = {"layers": [_report_dict(report) for report in reports]} if worst_layer else {}
        rows = [_check_dict(item) for item in checks]
        print_json({"reference": str(sides[0]), "other": str(sides[1]), "outputs": rows, **layers})
    else:
        _print_checks("output", checks)
        if worst_layer:
            _print_checks("worst layer", [report.worst for report in reports])
            _print_first(reports)
    failed = [item for item in checks if not item.passed]
    if failed:
        worst = failed[0]
        reason = worst.not_finite or f"off by {worst.relative:.1e}, tolerance {worst.tolerance:.0e}"
        raise EngineError(f"{worst.output} of {worst.network}: {reason}", "use --engine torch, or a more precise dtype")


def _check_dict(check: OutputCheck) -> dict[str, Any]:
    finite = not check.not_finite
    return {
        "network": check.network,
        "output": check.output,
        "relative": check.relative if finite else None,
        "absolute": check.absolute if finite else None,
        "tolerance": check.tolerance,
        "not_finite": check.not_finite,
        "passed": check.passed,
    }


def _report_dict(report: LayerReport) -> dict[str, Any]:
    first = _check_dict(report.first) if report.first else None
    return {
        "network": report.network,
        "compared": len(report.checks),
        "worst": _check_dict(report.worst),
        "first": first,
    }


def _print_first(reports: list[LayerReport]) -> None:
    for report in reports:
        where = (
            f"the first beyond the tolerance is {report.first.output}" if report.first else "none beyond the tolerance"
        )
        say(f"{report.network}: {len(report.checks)} layers compared, {where}")


def _print_checks(heading: str, checks: list[OutputCheck]) -> None:
    from rich.table import Table

    table = Table()
    for name in ("network", heading, "relative error", "largest error", "tolerance", ""):
        table.add_column(name, justify="right" if "err" in name or name == "tolerance" else "left", overflow="fold")
    for item in checks:
        figures = [f"{value:.1e}" for value in (item.relative, item.absolute, item.tolerance)]
        table.add_row(item.network, item.output, *figures, "ok" if item.passed else item.not_finite or "too far")
    print_table(table)
