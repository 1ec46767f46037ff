"""``dgkit engines check``: do two engines compute the same?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgkit.cli.common import console, print_json

if TYPE_CHECKING:
    from dgkit.engines.base import Network
    from dgkit.engines.compare import OutputCheck


def check(
    first: Annotated[str, typer.Argument(metavar="A", help="The reference: an engine, or engine:dtype (torch:bf16).")],
    second: Annotated[str, typer.Argument(metavar="B", help="The engine to compare with it.")],
    model: Annotated[str | None, typer.Option(help="Model folder or hub id; default: the shipped one.")] = None,
    controlnet: Annotated[str | None, typer.Option(help="ControlNet folder or hub id; default: the model's.")] = None,
    networks: Annotated[str, typer.Option(metavar="N,N", help="Networks, separated by commas.")] = "all",
    batch: Annotated[int, typer.Option(help="Samples a call.")] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the errors as JSON.")] = False,
) -> None:
    """Run the networks of a model on two engines with the same inputs and compare the outputs.

    An output further apart than the tolerance of the less precise side, or not finite, is an error.
    """
    from dgkit.diffusion.folder import ModelFolder
    from dgkit.diffusion.hub import find_controlnet, find_model
    from dgkit.diffusion.loading import model_networks
    from dgkit.engines.compare import Side, check_network
    from dgkit.engines.spec import NETWORKS, network_spec
    from dgkit.errors import EngineError

    sides = Side.parse(first), Side.parse(second)
    chosen = list(NETWORKS) if networks == "all" else [network_spec(name.strip()).name for name in networks.split(",")]
    folder = ModelFolder(find_model(model), None if controlnet is None else find_controlnet(controlnet))

    def load(name: str) -> Network:
        folder.release()
        return model_networks(folder)[name]

    checks = []
    for name in chosen:
        checks += check_network(partial(load, name), *sides, device=device, batch=batch, notify=_say)
    if as_json:
        print_json({"reference": str(sides[0]), "other": str(sides[1]), "outputs": [_check_dict(c) for c in checks]})
    else:
        _print_checks(checks)
    failed = [item for item in checks if not item.passed]
    if failed:
        worst = failed[0]
        reason = worst.not_finite or f"off by {worst.relative:.1e}, allowed are {worst.tolerance:.0e}"
        raise EngineError(f"{worst.output} of {worst.network}: {reason}", "use --engine torch, or a more precise dtype")


def _say(message: str) -> None:
    console().print(message, markup=False)


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


def _print_checks(checks: list[OutputCheck]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for heading in ("network", "output", "relative error", "largest error", "tolerance", ""):
        table.add_column(heading, justify="right" if "err" in heading or heading == "tolerance" else "left")
    for item in checks:
        figures = [f"{value:.1e}" for value in (item.relative, item.absolute, item.tolerance)]
        table.add_row(item.network, item.output, *figures, "ok" if item.passed else item.not_finite or "too far")
    Console(highlight=False).print(table)
