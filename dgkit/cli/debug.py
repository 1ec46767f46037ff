"""``dgkit engines debug``: the smallest part of a network that fails on an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgkit.cli.common import chosen_model, inform, print_json, say
from dgkit.cli.options import ControlNet, Json, Model, Random, option
from dgkit.texts import count_of


def debug(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="Name of a network, or an ONNX file")],
    model: Model = None,
    controlnet: ControlNet = None,
    random: Random = None,
    engine: Annotated[str, option("ENGINE", "ort, openvino or trt")] = "ort",
    dtype: Annotated[str, option("D", "Number format of the graph: fp32, fp16 or bf16")] = "fp32",
    out: Annotated[Path, option("FILE", "ONNX file for the failing part")] = Path("failing.onnx"),
    as_json: Json = False,
) -> None:
    """Reduce a network that fails to the smallest part of its graph that still fails.

    On ort a graph fails if an output is not finite, on openvino if it differs from ort by more than the tolerance, on
    trt if no engine can be built.
    """
    from dgkit.diffusion.loading import model_networks, open_model
    from dgkit.engines.onnx_export import MODEL, example_inputs, export_engine
    from dgkit.engines.reduce import reduce_graph
    from dgkit.engines.spec import network_spec

    shapes: dict[str, list[int]] = {}
    if network.endswith(".onnx"):
        path = Path(network)
    else:
        chosen = model_networks(open_model(chosen_model(model, random), controlnet))[network_spec(network).name]
        path = export_engine(chosen, notify=inform, dtype=dtype).file(MODEL)
        shapes = {name: list(value.shape) for name, value in example_inputs(chosen, batch=1).items()}
    found = reduce_graph(path, out, engine, shapes, dtype)
    if as_json:
        facts = {"reason": found.reason, "nodes": list(found.nodes), "total": found.total}
        print_json({"network": network, "engine": engine, **facts, "file": str(out) if found.reason else None})
    elif not found.reason:
        say(f"{network} passes on {engine}: {count_of(found.total, 'node')}, nothing to reduce")
    else:
        say(f"{network} fails on {engine}: {found.reason}")
        say(f"{len(found.nodes)} of {count_of(found.total, 'node')} fail alone, in {out}: {', '.join(found.nodes)}")
