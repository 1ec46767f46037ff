"""Networks on OpenVINO for int8.py: quantised by NNCF, compiled, run and timed."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino as ov

from dgkit.optional import openvino_core

NARROW = 16  # channels
Arrays = Mapping[str, np.ndarray]


def quantised(model: ov.Model, items: list[dict[str, np.ndarray]], scope: str) -> ov.Model:
    """``model`` with 8-bit products, by NNCF's settings for transformers; linear layers are smoothed (SmoothQuant).

    ``scope``: ``all``; ``convolutions``; or ``wide``, all but what :func:`narrow` names.
    """
    try:
        import nncf
    except ImportError:
        raise SystemExit("this benchmark needs NNCF: pip install nncf") from None
    types, names = ["MatMul"] if scope == "convolutions" else [], narrow(model) if scope == "wide" else []
    ignored = nncf.IgnoredScope(types=types, names=names) if types or names else None
    return nncf.quantize(
        model, nncf.Dataset(items), subset_size=len(items), model_type=nncf.ModelType.TRANSFORMER, ignored_scope=ignored
    )


def narrow(model: ov.Model) -> list[str]:
    """Layers that cost little and carry much: convolutions from or to latents, products with a vector per sample, which
    stands for the timestep.
    """
    found = []
    for node in model.get_ops():
        kind, shape = node.get_type_name(), node.output(0).get_partial_shape()
        if kind == "MatMul" and shape.rank.get_length() == 2:
            found.append(node.get_friendly_name())
        if kind == "Convolution" and min(node.input(1).get_shape()[:2]) < NARROW:
            found.append(node.get_friendly_name())
    return found


def opened(model: ov.Model, precision: str, threads: int) -> Any:
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    return openvino_core().compile_model(model, "CPU", settings).create_infer_request()


def run(request: Any, inputs: Arrays) -> np.ndarray:
    return np.array(request.infer(dict(inputs), share_inputs=True)[0])


def timed(requests: Mapping[str, Any], inputs: Arrays, rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of each call by variant, the variants in turn, after a round that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in requests}
    for number in range(rounds + 1):
        for name, request in requests.items():
            started = time.process_time()
            request.infer(dict(inputs), share_inputs=True)
            if number:
                spent[name].append(1e3 * (time.process_time() - started))
    return spent


def timing_cells(spent: list[float], base: list[float]) -> dict[str, Any]:
    """``x_bf16``: how many times as fast as bf16, medians of the same rounds."""
    middle = statistics.median(spent)
    return {
        "calls": len(spent),
        "cpu_ms": round(middle, 2),
        "cpu_ms_least": round(min(spent), 2),
        "x_bf16": round(statistics.median(base) / middle, 2),
    }


def products(request: Any) -> str:
    """How many convolutions and matrix products run in which type, such as ``u8 12, bf16 3``."""
    counts: dict[str, int] = {}
    for node in request.get_compiled_model().get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if facts["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul"):
            kind = facts["runtimePrecision"].astype(str)
            counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(f"{kind} {number}" for kind, number in sorted(counts.items()))
