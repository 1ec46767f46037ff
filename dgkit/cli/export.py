"""``dgkit export``: the networks of a model as ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgkit.cli.common import chosen_model, console, print_json, print_table, say, size_text

if TYPE_CHECKING:
    from dgkit.engines.base import Network
    from dgkit.engines.spec import TensorSpec
    from dgkit.engines.store import Engine


def export(
    places: Annotated[
        list[str],
        typer.Argument(metavar="[MODEL] OUT", help="Model folder or hub id, by default the embedded one; output."),
    ],
    controlnet: Annotated[str | None, typer.Option(help="ControlNet folder or hub id; default: the model's.")] = None,
    random: Annotated[
        str | None, typer.Option(metavar="NAME", help="Random weights instead: sd15, city or tiny.")
    ] = None,
    networks: Annotated[str, typer.Option(metavar="N,N", help="Networks, separated by commas.")] = "all",
    dtype: Annotated[str, typer.Option(help="fp32, fp16 or bf16, of weights, inputs and outputs.")] = "fp32",
    opset: Annotated[int | None, typer.Option(help="ONNX operator set; default: 18.", show_default=False)] = None,
    rebuild: Annotated[str, typer.Option(metavar="POLICY", help="never, auto or always: export anew.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write the networks as ONNX files, each run in ONNX Runtime and compared with PyTorch.

    OUT gets a folder for each network with model.onnx, its weights and engine.json.
    """
    from dgkit.diffusion.loading import model_networks, open_model
    from dgkit.engines.copies import copy_out
    from dgkit.engines.export import OPSET, export_engine, graph_key
    from dgkit.engines.recipe import choose_networks
    from dgkit.engines.store import check_policy
    from dgkit.errors import UsageError

    if len(places) > 2:
        raise UsageError(f"{len(places)} arguments, allowed are [MODEL] OUT", "quote a path that holds spaces")
    out, policy = Path(places[-1]), check_policy(rebuild)
    model = open_model(chosen_model(places[0] if len(places) == 2 else None, random), controlnet)
    found = model_networks(model)
    chosen = {name: found[name] for name in choose_networks(networks)}
    for network in chosen.values():
        graph_key(network, dtype, opset or OPSET)  # refuses before the first export what it cannot do
    rows = []
    for number, (name, network) in enumerate(chosen.items(), 1):
        with console().status(f"{name} in {dtype}, {number} of {len(chosen)}"):
            engine = export_engine(network, policy, say, dtype=dtype, opset=opset or OPSET)
            rows.append(_as_dict(engine, network, copy_out(engine, out / name)))
        model.release()
    if as_json:
        print_json({"model": model.info.name, "dtype": dtype, "opset": opset or OPSET, "networks": rows})
    else:
        _print_table(rows, out)


def _as_dict(engine: Engine, network: Network, folder: Path) -> dict[str, Any]:
    from dgkit.engines.export import MODEL

    def tensor(spec: TensorSpec) -> dict[str, Any]:
        sizes = (engine.key.shapes[symbol] for symbol in spec.shape)
        shape = [symbol if size == "any" else size for symbol, size in zip(spec.shape, sizes, strict=True)]
        return {"name": spec.name, "shape": shape, "dtype": engine.key.dtype if spec.dtype == "float" else spec.dtype}

    return {
        "network": network.spec.name,
        "file": str(folder / MODEL),
        "inputs": [tensor(spec) for spec in network.spec.inputs],
        "outputs": [tensor(spec) for spec in network.spec.outputs],
        "bytes": engine.sidecar.size,
        "error": engine.sidecar.notes.get("error"),
        "id": engine.name,
    }


def _print_table(rows: list[dict[str, Any]], out: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    def tensors(items: list[dict[str, Any]]) -> str:
        return escape("\n".join(f"{item['name']} [{', '.join(map(str, item['shape']))}]" for item in items))

    table = Table()
    for heading in ("network", "inputs", "outputs", "size", "error"):
        table.add_column(heading, justify="right" if heading in ("size", "error") else "left", overflow="fold")
    for row in rows:
        errors = "\n".join(f"{value:.1e}" for value in row["error"].values())
        table.add_row(row["network"], tensors(row["inputs"]), tensors(row["outputs"]), size_text(row["bytes"]), errors)
    print_table(table)
    say(f"{len(rows)} {'network' if len(rows) == 1 else 'networks'} in {out}")
