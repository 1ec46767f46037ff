"""The engine and number format that suit a machine and the length of a run.

``engine_speed.csv`` holds what was measured on two cores of an AMD EPYC (Zen 5): seconds of whole images per TFLOP of
the denoiser, and seconds to build the engines of all networks. The rows are for the embedded model (preset ``fast``;
bench.csv and preset_speed.csv in benchmarks/results) and for Stable Diffusion 1.5 (the rates in bench_sd15.csv at the
cost of ``fast`` in docs/guides/mass-generation.md). An engine without a row was not measured for such a model and is
not built unasked.
"""

import csv
import functools
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from importlib.util import find_spec

from dgkit.diagnosis import cpu

FLOP_PER_WEIGHT = 0.23  # operations of a denoiser per weight and latent cell: 0.25 embedded, 0.21 Stable Diffusion 1.5
_MEASURED_CORES = 2
_LARGER = 1.5  # times the weights of the largest measured model, such as SDXL
_BF16 = {"AVX512_BF16", "AMX_BF16", "ARM_BF16"}
# Packages that run an engine, and those that build it in addition.
PACKAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "torch": ((), ()),
    "compile": ((), ()),
    "ort": (("onnxruntime",), ("onnx", "onnxscript")),
    "openvino": (("openvino",), ("onnx", "onnxscript")),
    "trt": (("tensorrt",), ("onnx", "onnxscript")),
}


@dataclass(frozen=True)
class EngineSpeed:
    """A row of the table: ``seconds_per_tflop`` of whole images on two cores, ``build_seconds`` and ``build_gib``."""

    device: str
    engine: str
    dtype: str
    parameters: float
    seconds_per_tflop: float
    build_seconds: float
    build_gib: float


@dataclass(frozen=True)
class Work:
    """A run: number of ``images``, TFLOP of the denoiser per image, CPU cores and free memory.

    ``seconds`` holds measured seconds per image by engine, ``build_seconds`` measured seconds of builds.
    """

    images: int
    tflop: float
    cores: int
    memory_gib: float
    seconds: Mapping[str, float] = field(default_factory=dict)
    build_seconds: Mapping[str, float] = field(default_factory=dict)


def usual_dtype(device: str, engine: str = "torch") -> str:
    """Return the fastest number format in which ``engine`` makes usable images on ``device``, cpu or cuda."""
    if engine == "ort":
        return "fp32"
    if device.startswith("cuda") or engine == "trt":
        return "fp16"
    return "bf16" if multiplies_bf16() else "fp32"


def multiplies_bf16() -> bool:
    """Return whether the CPU multiplies in bf16, rather than converting each number."""
    return bool(_BF16 & set(cpu().features))


def installed(engine: str, *, build: bool = True) -> bool:
    """Return whether the packages that run ``engine`` are installed, and those that ``build`` it."""
    runs, builds = PACKAGES[engine]
    compiler = not build or engine != "compile" or shutil.which(os.environ.get("CXX", "g++")) is not None
    return compiler and all(_importable(name) for name in (*runs, *(builds if build else ())))


def _importable(name: str) -> bool:
    """Return whether a package is installed; a folder with type stubs only, such as tensorrt-stubs', has no origin."""
    found = find_spec(name)
    return found is not None and found.origin is not None


def measured_engines(device: str, dtype: str, parameters: float) -> tuple[EngineSpeed, ...]:
    """Return the rows for ``dtype`` on ``device`` of the measured model whose denoiser is closest in size.

    For a model larger than all measured ones, time and memory of a build grow with its weights.
    """
    rows = [row for row in _table() if (row.device, row.dtype) == (device.partition(":")[0], dtype)]
    closest = min((abs(math.log(row.parameters / parameters)) for row in rows), default=0.0)
    found = [row for row in rows if abs(math.log(row.parameters / parameters)) == closest]
    scale = parameters / max((row.parameters for row in rows), default=parameters)
    if scale < _LARGER:
        return tuple(found)
    return tuple(
        replace(row, build_seconds=scale * row.build_seconds, build_gib=scale * row.build_gib) for row in found
    )


def worthwhile(work: Work, rows: Iterable[EngineSpeed], offered: Callable[[str], bool]) -> str:
    """Return the engine with which the run ends first, builds included; torch without a row for torch.

    ``offered`` says whether an engine can be built here.
    """
    known, totals = {row.engine: row for row in rows}, {"torch": math.inf}
    if "torch" not in known:
        return "torch"
    for engine, row in known.items():
        if engine == "torch" or (row.build_gib <= work.memory_gib and offered(engine)):
            build = work.build_seconds.get(engine, row.build_seconds)
            totals[engine] = work.images * seconds_per_image(work, row, known["torch"]) + build
    return min(totals, key=lambda engine: totals[engine])


def seconds_per_image(work: Work, row: EngineSpeed, torch: EngineSpeed) -> float:
    """Return the seconds per image that this machine measured, else those of the table scaled to this machine."""
    if row.engine in work.seconds:
        return work.seconds[row.engine]
    if torch.engine in work.seconds:
        return work.seconds[torch.engine] * row.seconds_per_tflop / torch.seconds_per_tflop
    return work.tflop * row.seconds_per_tflop * _MEASURED_CORES / max(1, work.cores)


@functools.cache
def _table() -> tuple[EngineSpeed, ...]:
    lines = files("dgkit.engines").joinpath("engine_speed.csv").read_text(encoding="utf-8").splitlines()
    return tuple(
        EngineSpeed(row["device"], row["engine"], row["dtype"], *(float(row[name]) for name in list(row)[3:]))
        for row in csv.DictReader(lines)
    )
