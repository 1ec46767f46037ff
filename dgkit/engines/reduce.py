"""The smallest part of an ONNX graph that fails, found by Polygraphy's ``debug reduce``.

Polygraphy cuts the graph by bisection, first from its outputs, then from its inputs, and asks after each cut whether
the rest still fails. The checks run in this process. Sizes are fixed to those of a call with one sample.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.engines.onnx_export import TOLERANCES, relative_error
from dgkit.engines.trt_library import load_library, polygraphy
from dgkit.errors import DgkitError, EngineError, UsageError
from dgkit.files import atomic_write
from dgkit.optional import first_line, openvino_core

Values = Mapping[str, np.ndarray]
ENGINES = ("ort", "openvino", "trt")
"""Engines that run or build any ONNX graph."""


@dataclass(frozen=True)
class Reduction:
    """The result: the ``reason`` why the whole graph fails (empty: it passes), and the ``nodes`` of the part."""

    reason: str
    nodes: tuple[str, ...] = ()
    total: int = 0


def reduce_graph(graph: Path, target: Path, engine: str, shapes: Mapping[str, list[int]], dtype: str) -> Reduction:
    """Write the smallest failing part of the ONNX file ``graph`` to ``target``, complete or absent.

    ``shapes`` are those of the inputs. On ``openvino`` a part fails if its outputs differ from those of ONNX Runtime by
    more than the tolerance of ``dtype``, on ``ort`` if they are not finite, on ``trt`` if no engine can be built. A
    graph that passes writes nothing. Raises UsageError for another engine, EngineError for a file that is no graph.
    """
    if engine not in ENGINES:
        raise UsageError(
            f"engine {engine!r} takes no ONNX graphs; engines that do: {', '.join(ENGINES)}", "use --engine ort"
        )
    check = _CHECKS[engine]
    with tempfile.TemporaryDirectory() as folder:
        whole, part = Path(folder) / "whole.onnx", Path(folder) / "part.onnx"
        total = _freeze(graph, whole, shapes)
        reason = _failure(check, whole, dtype)
        if not reason:
            return Reduction("", total=total)
        _run_tool(whole, part, lambda path: not _failure(check, path, dtype))
        loaded = polygraphy("backend.onnx").onnx_from_path(str(part))
        atomic_write(target, part.read_bytes())
    return Reduction(reason, tuple(f"{node.op_type} {node.name}" for node in loaded.graph.node), total)


def _freeze(graph: Path, target: Path, shapes: Mapping[str, list[int]]) -> int:
    """Write the graph with its weights in one file, input sizes fixed and folded; return the number of nodes."""
    loaders = polygraphy("backend.onnx")
    try:
        model = loaders.onnx_from_path(str(graph))
        for item in model.graph.input:
            for axis, size in zip(item.type.tensor_type.shape.dim, shapes.get(item.name, ()), strict=False):
                axis.dim_value = size
        del model.graph.value_info[:]  # sizes inferred for the free axes
        model = loaders.fold_constants(loaders.infer_shapes(model))
        target.write_bytes(model.SerializeToString())
    except Exception as error:  # onnx, protobuf and Polygraphy raise classes of their own
        raise EngineError(
            f"{graph} is not a usable ONNX graph: {first_line(error)}", "give a file that dgkit export wrote"
        ) from error
    return len(model.graph.node)


def _run_tool(whole: Path, part: Path, passes: Callable[[Path], bool]) -> None:
    """Run ``polygraphy debug reduce``, whose check is ``passes``."""
    tool = polygraphy("tools.debug.subtool.reduce").Reduce()
    parser = argparse.ArgumentParser()
    tool.setup_parser(parser.add_subparsers())
    step = str(part.with_name("step.onnx"))
    words = ["reduce", str(whole), "--output", str(part), "--iter-artifact", step, "--mode", "bisect"]
    replay = ["--save-debug-replay", str(part.with_name("replay.json"))]
    arguments = parser.parse_args([*words, *replay, "--check", "unused"])
    for group in tool.arg_groups.values():
        if type(group).__name__ != "LoggerArgs":  # it would print again
            group.parse(arguments)
    checks: Any = tool.arg_groups[polygraphy("tools.debug.subtool.iterative_debug_args").CheckCmdArgs]
    checks.run_check = lambda path: passes(Path(path))
    tool.run(arguments)


def _failure(check: Callable[[Path, str], str], graph: Path, dtype: str) -> str:
    """Return why a graph fails; a graph that ONNX Runtime cannot run passes, because the cut made it invalid."""
    try:
        return check(graph, dtype)
    except DgkitError as error:
        return error.message


def _check_ort(graph: Path, dtype: str) -> str:
    found = _run_ort(graph)
    return next((f"{name} is not finite" for name, value in found.items() if not np.isfinite(value).all()), "")


def _check_openvino(graph: Path, dtype: str) -> str:
    from dgkit.engines.openvino_runner import precision_hint

    expected = _run_ort(graph)
    compiled = openvino_core().compile_model(str(graph), "CPU", precision_hint(dtype))
    found = compiled(_inputs(graph))
    for name, value in expected.items():
        off = relative_error(np.asarray(found[compiled.output(name)]), value)
        if not off <= TOLERANCES[dtype]:
            return f"{name} is off by {off:.1e}, tolerance {TOLERANCES[dtype]:.0e}"
    return ""


def _check_trt(graph: Path, dtype: str) -> str:
    library, loaders = load_library(), polygraphy("backend.trt")
    with library.reporting("TensorRT cannot build the graph"):
        loaders.engine_bytes_from_network(loaders.network_from_onnx_path(str(graph), strongly_typed=True))
    return ""


def _run_ort(graph: Path) -> dict[str, np.ndarray]:
    runtime = polygraphy("backend.onnxrt")
    with runtime.OnnxrtRunner(runtime.SessionFromOnnx(str(graph))) as runner:
        return {name: np.asarray(value) for name, value in runner.infer(_inputs(graph)).items()}


def _inputs(graph: Path) -> dict[str, np.ndarray]:
    """Return random inputs of the graph, the same for each call."""
    loader: Any = polygraphy("comparator").DataLoader(seed=1)
    model = polygraphy("backend.onnx").onnx_from_path(str(graph))
    loader.input_metadata = polygraphy("backend.onnx.util").get_input_metadata(model.graph)
    found: dict[str, np.ndarray] = loader[0]
    return found


_CHECKS = {"ort": _check_ort, "openvino": _check_openvino, "trt": _check_trt}
