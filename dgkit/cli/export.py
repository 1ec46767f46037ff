"""``dgkit export``: the networks of a model, or a segmenter, as ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from dgkit.cli.common import chosen_model, inform, interruptible, print_json, print_table, progress_bars, say, size_text
from dgkit.cli.options import ControlNet, Json, Loras, MmsegConfig, Networks, Random, Rebuild, option
from dgkit.texts import count_of

EXAMPLE = 128  # side in pixels of the example picture that a segmenter with free sizes is traced with

if TYPE_CHECKING:
    from dgkit.engines.runner import Network
    from dgkit.engines.spec import TensorSpec
    from dgkit.engines.store import Engine


class _Export(TyperGroup):
    """``dgkit export [MODEL] OUT`` is short for ``dgkit export networks [MODEL] OUT``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = (*self.commands, *ctx.help_option_names)
        return super().parse_args(ctx, ["networks", *args] if args and args[0] not in known else args)


export = typer.Typer(cls=_Export, no_args_is_help=True)


@export.callback()
def _export() -> None:
    """Write the networks of a model, or a segmenter, as ONNX files.

    `dgkit export [MODEL] OUT` is short for `dgkit export networks [MODEL] OUT`.
    """


@export.command("networks")
def networks(
    places: Annotated[
        list[str],
        typer.Argument(metavar="[MODEL] OUT", help="Model folder or hub id (default: embedded model); output folder"),
    ],
    controlnet: ControlNet = None,
    lora: Loras = None,
    random: Random = None,
    names: Networks = "all",
    dtype: Annotated[str, option("D", "Number format of weights, inputs, outputs: fp32, fp16 or bf16")] = "fp32",
    opset: Annotated[int | None, option("N", "ONNX operator set; default: 18")] = None,
    rebuild: Rebuild = "auto",
    as_json: Json = False,
) -> None:
    """Write the networks as ONNX files; each is run in ONNX Runtime and compared with PyTorch.

    Each network gets a folder in OUT with model.onnx, its weights, engine.json, and tensorrt.sh: commands that build
    and check a TensorRT engine.
    """
    from dgkit.diffusion.loading import model_networks, open_model
    from dgkit.engines.copies import copy_out
    from dgkit.engines.engine_recipe import choose_networks
    from dgkit.engines.onnx_export import OPSET, export_engine, graph_key
    from dgkit.engines.store import check_policy
    from dgkit.engines.trt_commands import SCRIPT, script
    from dgkit.errors import UsageError

    if len(places) > 2:
        raise UsageError(f"expected [MODEL] OUT, got {len(places)} arguments", "quote a path that contains spaces")
    out, policy = Path(places[-1]), check_policy(rebuild)
    model = open_model(chosen_model(places[0] if len(places) == 2 else None, random), controlnet, lora or ())
    found = model_networks(model)
    chosen = {name: found[name] for name in choose_networks(names)}
    for network in chosen.values():
        graph_key(network, dtype, opset or OPSET)  # fails before the first export if one is not possible
    rows = []
    with interruptible(), progress_bars({"export": ("Exporting", None)}) as progress:
        for number, (name, network) in enumerate(chosen.items()):
            progress("export", number, len(chosen), f"{name} in {dtype}")
            engine = export_engine(network, policy, inform, dtype=dtype, opset=opset or OPSET)
            folder = copy_out(engine, out / name, {SCRIPT: script(network, dtype)})
            rows.append(_as_dict(engine, network, folder))
            model.release()
        progress("export", len(chosen), len(chosen))
    if as_json:
        print_json({"model": model.info.name, "dtype": dtype, "opset": opset or OPSET, "networks": rows})
    else:
        _print_table(rows, out)


@export.command("segmenter")
def segmenter(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="mmsegmentation checkpoint (.pth) or SegFormer folder")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="ONNX file, or folder for segmenter.onnx")],
    config: MmsegConfig = None,
    size: Annotated[
        int | None, typer.Option(metavar="PX", min=32, help="Fixed height and width in pixels; default: free")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a segmenter as ONNX with the side-car that dgkit eval reads.

    It is run in ONNX Runtime and compared with PyTorch; nothing is written if the two differ.
    """
    from dgkit.segmenters.onnx_writer import write_segmenter
    from dgkit.segmenters.opening import find_source

    source = find_source(checkpoint, config)
    fixed, path = size or source.side, out if out.suffix == ".onnx" else out / "segmenter.onnx"
    with progress_bars({"export": ("Exporting", None)}) as progress:
        progress("export", 0, 1, f"{checkpoint} to {path}")
        error = write_segmenter(
            source.load(), path, classes=source.classes, mean=source.mean, std=source.std,
            side=fixed or EXAMPLE, fixed=fixed is not None, taxonomy=source.taxonomy,
            values=source.values,
        )  # fmt: skip
    written = path.stat().st_size
    facts = {
        "checkpoint": str(checkpoint),
        "kind": source.kind,
        "file": str(path),
        "side_car": str(path.with_suffix(".yaml")),
        "bytes": written,
        "classes": len(source.classes),
        "size": fixed,
        "error": error,
    }
    if as_json:
        print_json(facts)
        return
    where = f"{fixed}x{fixed}" if fixed else "any size in multiples of 32"
    say(f"{path}: {source.kind}, {len(source.classes)} classes, {where}, {size_text(written)}, error {error:.1e}")
    say(f"next: dgkit eval {path} --on NAME=DIR")


def _as_dict(engine: Engine, network: Network, folder: Path) -> dict[str, Any]:
    from dgkit.engines.onnx_export import MODEL

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
    say(f"{count_of(len(rows), 'network')} in {out}")
