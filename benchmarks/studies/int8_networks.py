"""Compile, run and time networks on OpenVINO, for int8.py."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino as ov

from dgkit.optional import openvino_core

Arrays = Mapping[str, np.ndarray]


def opened(model: ov.Model, precision: str, threads: int) -> Any:
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    return openvino_core().compile_model(model, "CPU", settings).create_infer_request()


def run(request: Any, inputs: Arrays) -> np.ndarray:
    return np.array(request.infer(dict(inputs), share_inputs=True)[0])


def timed(requests: Mapping[str, Any], inputs: Arrays, rounds: int) -> dict[str, list[float]]:
    """Return the CPU milliseconds of each call by variant; the variants take turns, after a warm-up round."""
    spent: dict[str, list[float]] = {name: [] for name in requests}
    for number in range(rounds + 1):
        for name, request in requests.items():
            started = time.process_time()
            request.infer(dict(inputs), share_inputs=True)
            if number:
                spent[name].append(1e3 * (time.process_time() - started))
    return spent


def timing_cells(spent: list[float], base: list[float]) -> dict[str, Any]:
    """Return the cells of a variant; ``x_bf16`` is the speed-up over bf16, by medians of the same rounds."""
    middle = statistics.median(spent)
    return {
        "calls": len(spent),
        "cpu_ms": round(middle, 2),
        "cpu_ms_least": round(min(spent), 2),
        "x_bf16": round(statistics.median(base) / middle, 2),
    }


def products(request: Any) -> str:
    """Return the number of convolutions and matrix products by the type they run in, such as ``u8 12, bf16 3``."""
    counts: dict[str, int] = {}
    for node in request.get_compiled_model().get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if facts["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul"):
            kind = facts["runtimePrecision"].astype(str)
            counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(f"{kind} {number}" for kind, number in sorted(counts.items()))
