"""New weights for a built engine of the same architecture: seconds instead of a build.

The graph of the new weights is compared with that of the engine by name, shape and type before the library is asked,
so that a message names what differs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dgkit.engines.onnx_export import MODEL
from dgkit.engines.sidecar import EngineKey, EngineSideCar, key_differences, read_sidecar
from dgkit.engines.store import EngineStore
from dgkit.engines.trt_library import TrtLibrary
from dgkit.errors import EngineError
from dgkit.optional import require

REBUILD = "build it without --refit, or with --rebuild always"
Weight = tuple[tuple[int, ...], str]
"""Shape and ONNX type of a weight."""


def engine_to_refit(store: EngineStore, key: EngineKey) -> EngineSideCar | None:
    """Return the side-car of an engine in the store that differs from ``key`` in its weights only; None without one."""
    for folder in sorted(store.root.glob(f"{key.network}-{key.backend}-{key.dtype}-*")):
        sidecar = read_sidecar(folder)
        if isinstance(sidecar, EngineSideCar) and {item.field for item in key_differences(key, sidecar.key)} == {
            "weights"
        }:
            return sidecar
    return None


def check_weights(engine_graph: Path, graph: Path) -> None:
    """Raise EngineError, which names a weight, unless both graphs have the same weights by name, shape and type."""
    old, new = read_weights(engine_graph), read_weights(graph)
    for name in (*new, *old):
        if old.get(name) != new.get(name):
            raise EngineError(
                f"the engine cannot take these weights: {name} is {_text(new.get(name))}; "
                f"the engine has {_text(old.get(name))}",
                REBUILD,
            )


def read_weights(graph: Path) -> Mapping[str, Weight]:
    """Return shape and type of each weight of an ONNX file by name, without reading the weights."""
    onnx: Any = require("onnx", "cpu")
    model = onnx.load(str(graph), load_external_data=False)
    kinds = onnx.TensorProto.DataType
    return {
        tensor.name: (tuple(tensor.dims), kinds.Name(tensor.data_type).lower()) for tensor in model.graph.initializer
    }


def refit_engine(library: TrtLibrary, engine: Path, graph: Path, target: Path, device: torch.device) -> None:
    """Write ``engine`` with the weights of ``graph`` to ``target``. Raises EngineError if the library refuses them."""
    trt = library.module
    library.reason()  # clears earlier messages
    with torch.cuda.device(device):
        runtime = trt.Runtime(library.logger)
        opened = runtime.deserialize_cuda_engine(engine.read_bytes())
        if opened is None:
            raise EngineError(f"{engine} cannot be opened on this GPU: {library.reason()}", REBUILD)
        load_weights(library, opened, graph)
        target.write_bytes(memoryview(opened.serialize()))


def load_weights(library: TrtLibrary, engine: Any, graph: Path) -> None:
    """Load the weights of an exported graph into an open engine. Raises EngineError if the library refuses them."""
    trt = library.module
    refitter = trt.Refitter(engine, library.logger)
    parser = trt.OnnxParserRefitter(refitter, library.logger)
    if not (parser.refit_from_file(str(graph)) and refitter.refit_cuda_engine()):
        missing = ", ".join(list(refitter.get_missing_weights())[:3])
        reason = f"{library.reason()}{f'; missing: {missing}' if missing else ''}"
        raise EngineError(f"the weights of {graph} cannot be loaded into the engine: {reason}", REBUILD)


def graph_of(store: EngineStore, sidecar: EngineSideCar) -> Path | None:
    """Return the graph that an engine was built from, if it is still in the store."""
    path = store.root / str(sidecar.notes.get("graph", "")) / MODEL
    return path if sidecar.notes.get("graph") and path.is_file() else None


def _text(weight: Weight | None) -> str:
    return "missing" if weight is None else f"{weight[1]} {list(weight[0])}"
