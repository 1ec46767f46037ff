"""Build the denoiser with TensorRT-RTX in fp16 and in 8 bits, without a GPU, and record what the engines are made of.

    DGKIT_TRT=rtx python benchmarks/studies/trt_8bit.py --csv rows.csv                        the embedded model
    DGKIT_TRT=rtx python benchmarks/studies/trt_8bit.py --csv rows.csv --random sd15          Stable Diffusion's sizes

With ``--random`` the graph is calibrated on two random inputs instead of scenes: ranges do not change build time,
memory or layers, and scenes of Stable Diffusion's size take half an hour on two cores. The error is then no result.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dgkit.diffusion.loading import model_networks, open_model
from dgkit.diffusion.model_folder import ModelSource
from dgkit.engines.onnx_export import example_inputs
from dgkit.engines.qdq_graph import typed_graph
from dgkit.engines.runner import BuildOptions, Calibration, Call, Network
from dgkit.engines.trt_build import obtain_engine
from dgkit.engines.trt_library import load_library
from dgkit.provenance import cpu_name

DTYPES = ("fp16", "int8", "fp8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, required=True, help="file to append rows to")
    parser.add_argument("--random", help="sd15, city or tiny instead of the embedded model")
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    given = parser.parse_args()
    model = open_model(f"random:{given.random}" if given.random else None)
    network = model_networks(model)["denoiser"]
    if given.random:
        source = network
        recorded = Calibration(lambda: draw(model, source), lambda: {"calibration": "random"})
        network = replace(network, calibration=recorded)
    for dtype in given.dtypes.split(","):
        row = measure(network, dtype)
        with given.csv.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(row), lineterminator="\n")
            if stream.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)


def draw(model: ModelSource, network: Network) -> tuple[Sequence[Call], Sequence[Call]]:
    """Return two calibration calls and one held-out call with random inputs."""
    module = network.load().float().eval()
    calls = [{name: value.numpy() for name, value in example_inputs(network, 1, seed).items()} for seed in range(3)]
    with torch.no_grad():
        outputs = module(*(torch.from_numpy(value) for value in calls[2].values()))
    model.release()
    return calls[:2], [{**calls[2], network.spec.outputs[0].name: outputs.numpy()}]


def measure(network: Network, dtype: str) -> dict[str, Any]:
    """Return a row about the graph and the engine of ``network``; build them if they are not in the store."""
    graph = typed_graph(network, dtype, notify=print).sidecar
    engine = obtain_engine(load_library(), network, dtype, torch.device("cpu"), BuildOptions(), notify=print).sidecar
    notes: Any = engine.notes
    products: Any = graph.notes.get("products", {})
    errors: Any = graph.notes["error"]
    layers: Counter[str] = Counter()
    for counts in notes["types"].values():
        layers.update(counts)
    facts = {
        "model": network.model or "embedded", "network": network.spec.name, "dtype": dtype,
        "samples": str(engine.key.shapes["batch"]), "tensorrt_rtx": engine.key.backend_version,
        "graph_s": graph.seconds, "build_s": engine.seconds, "build_peak_gib": notes["peak_gib"],
        "engine_mib": round(engine.size / 2**20, 1), "weights_mib": notes.get("weights_mib", ""),
        "activation_mib": notes.get("activation_mib", ""), "error": f"{errors['prediction']:.3g}",
        "products_8bit": products.get("quantised", 0), "products_other": products.get("other", ""),
        "layers": notes["layers"],
    }  # fmt: skip
    kinds = {f"layers_{kind}": layers[kind] for kind in ("fp32", "fp16", "int8", "fp8", "int32", "int64", "bool")}
    return facts | kinds | {"cpu": cpu_name()}


if __name__ == "__main__":
    main()
