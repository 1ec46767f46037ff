"""What a build for TensorRT-RTX takes without a GPU, what the engine contains, and what folding its graph would change.

    python benchmarks/studies/trt_builds.py WORK
    python benchmarks/studies/trt_builds.py WORK --random sd15 --dtype fp16 --networks denoiser

Each network is exported, then built in a process of its own, whose peak memory is that of the build alone. Appends to
trt_builds.csv: `nodes` of the graph and `nodes_folded` after Polygraphy's constant folding and cleaning; seconds of
export and build, GiB of graph and engine, peak memory of the build; layers of the network definition whose output has
each number format, without those that compute sizes; `norms_fp32`; kernels of the engine. `load` is that of other
programs when the build began: with one, the seconds are an upper bound. WORK holds the engines, 8 GB for
Stable Diffusion 1.5.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from records import RESULTS, Row, read_rows, study_parser, write_rows

from dgkit.engines.spec import NETWORKS
from dgkit.provenance import cpu_name, git_commit, versions
from dgkit.resources import load_average, usable_cores

FLOATS = ("fp32", "fp16", "bf16")


def main() -> None:
    parser = study_parser(__doc__, "cache of the exported and built engines", RESULTS / "trt_builds.csv")
    parser.add_argument("--random", default="city", help="tiny, city or sd15")
    parser.add_argument("--dtype", default="fp16", help="fp32, fp16 or bf16")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="separated by commas")
    parser.add_argument("--step", choices=("export", "build"), help="a single step, for the processes of this script")
    given = parser.parse_args()
    if given.step:
        print(json.dumps(STEPS[given.step](given.random, given.networks, given.dtype)))
        return
    for name in given.networks.split(","):
        row: Row = {"model": given.random, "network": name, "dtype": given.dtype}
        for step in STEPS:
            row |= run_step(given.work, step, given.random, name, given.dtype)
        row = {key: round(value, 3) if isinstance(value, float) else value for key, value in (row | facts()).items()}
        print(row)
        write_rows(given.results, [*read_rows(given.results), row])


def run_step(work: Path, step: str, model: str, network: str, dtype: str) -> Row:
    """Run one step for one network in a process of its own and return its columns."""
    command = [sys.executable, __file__, str(work), "--random", model, "--dtype", dtype, "--networks", network]
    environment = {**os.environ, "DGKIT_CACHE": str(work), "DGKIT_TRT": "rtx"}
    ended = subprocess.run([*command, "--step", step], env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: Row = json.loads(ended.stdout.splitlines()[-1])
    return found


def export_columns(model: str, name: str, dtype: str) -> Row:
    """Export a network, and fold its graph in memory."""
    from dgkit.diffusion.loading import model_networks, open_model
    from dgkit.engines.onnx_export import MODEL, export_engine
    from dgkit.engines.trt_library import polygraphy

    engine = export_engine(model_networks(open_model(f"random:{model}"))[name], dtype=dtype)
    loaders = polygraphy("backend.onnx")
    graph = loaders.onnx_from_path(str(engine.file(MODEL)))
    row: Row = {
        "export_s": engine.sidecar.seconds,
        "graph_gib": engine.sidecar.size / 2**30,
        "nodes": len(graph.graph.node),
    }
    return {**row, "nodes_folded": len(loaders.fold_constants(graph).graph.node)}


def build_columns(model: str, name: str, dtype: str) -> Row:
    """Build the engine of an exported network."""
    from dgkit.diffusion.loading import model_networks, open_model
    from dgkit.engines.trt import TrtRunner
    from dgkit.engines.trt_build import ENGINE
    from dgkit.engines.trt_plan import read_kernels

    load = load_average()
    (engine,) = TrtRunner(model_networks(open_model(f"random:{model}"))[name], dtype=dtype).prepare()
    notes, kernels = json.loads(json.dumps(engine.sidecar.notes)), read_kernels(engine.file(ENGINE))
    types = notes["types"]
    row: Row = {
        "build_s": engine.sidecar.seconds,
        "load": load,
        "peak_gib": notes["peak_gib"],
        "engine_gib": engine.sidecar.size / 2**30,
        "activations_gib": notes.get("activations_mib", 0) / 1024,
        "layers": notes["layers"],
    }
    row |= {f"layers_{kind}": sum(counts.get(kind, 0) for counts in types.values()) for kind in FLOATS}
    row |= {"norms_fp32": types.get("normalization", {}).get("fp32", 0), "kernels": len(kernels)}
    return row | {f"kernels_{kind}": sum(kind in kernel.writes for kernel in kernels) for kind in FLOATS}


def facts() -> Row:
    """Return the columns that say where and with what the row was measured."""
    known = versions()
    packages = {name: known.get(name, "") for name in ("torch", "onnx", "tensorrt-rtx", "polygraphy")}
    return {"cpu": cpu_name(), "cores": len(usable_cores()), **packages, "commit": git_commit() or ""}


STEPS = {"export": export_columns, "build": build_columns}

if __name__ == "__main__":
    main()
