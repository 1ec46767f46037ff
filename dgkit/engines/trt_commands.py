"""Shell commands that build and check the engine of an exported network with NVIDIA's own tools, on any of its GPUs.

``trtexec`` belongs to TensorRT; ``polygraphy run`` also compares the engine with ONNX Runtime. The tolerance is that of
dgkit: a relative L2 error of E is a signal-to-noise ratio of -20 log10(E) dB.
"""

import math
from collections.abc import Mapping, Sequence

from dgkit.engines.onnx_export import MODEL, TOLERANCES
from dgkit.engines.runner import BuildOptions, Network
from dgkit.engines.trt_build import ENGINE, shape_ranges

SCRIPT = "tensorrt.sh"
_SIZES = ("min", "opt", "max")
_TIMESTEPS = 1000  # of the training; the values of other inputs do not matter
_HEAD = f"""#!/bin/sh
# Builds {MODEL} into a TensorRT engine on an NVIDIA GPU. Precision is part of the graph; TF32 is off.
# The first command needs TensorRT. The second one needs polygraphy, and onnxruntime to compare with; for
# TensorRT-RTX, set POLYGRAPHY_USE_TENSORRT_RTX=1.
set -e
cd "$(dirname "$0")"
"""


def script(network: Network, dtype: str, batch: tuple[int, int, int] | None = None) -> str:
    """Return a shell script with both commands for the exported ``network`` in ``dtype``.

    ``batch`` is the number of samples per call as in :class:`~dgkit.engines.runner.BuildOptions`.
    """
    ranges = shape_ranges(network, batch or BuildOptions().batch)
    return "\n".join((_HEAD, " ".join(trtexec(ranges)), "", " ".join(polygraphy_run(ranges, dtype)), ""))


def trtexec(ranges: Sequence[Mapping[str, Sequence[Sequence[int]]]]) -> list[str]:
    """Return the words of the command that builds the engine with these optimisation profiles."""
    words = ["trtexec", f"--onnx={MODEL}", f"--saveEngine={ENGINE}", "--stronglyTyped", "--noTF32"]
    for number, shapes in enumerate(ranges):
        words += [f"--profile={number}"] if len(ranges) > 1 else []
        for place, size in enumerate(_SIZES):
            listed = ",".join(f"{name}:{'x'.join(map(str, shape[place]))}" for name, shape in shapes.items())
            words.append(f"--{size}Shapes={listed}")
    return words


def polygraphy_run(ranges: Sequence[Mapping[str, Sequence[Sequence[int]]]], dtype: str) -> list[str]:
    """Return the words of the command that builds the engine and compares it with ONNX Runtime.

    ONNX Runtime does not run bf16 on a CPU; the outputs of such an engine are only checked to be finite.
    """
    ratio = f"{-20 * math.log10(TOLERANCES[dtype]):g}"
    reference = ["--onnxrt", "--compare-func", "snr", "--snr-tolerance", ratio] if dtype != "bf16" else []
    words = ["polygraphy", "run", MODEL, *reference, "--trt", "--strongly-typed", "--save-engine", ENGINE, "--validate"]
    for shapes in ranges:
        for place, size in enumerate(_SIZES):
            words += [f"--trt-{size}-shapes", *(_shape(name, shape[place]) for name, shape in shapes.items())]
    first = ranges[0]
    words += ["--input-shapes", *(_shape(name, [min(2, shape[2][0]), *shape[1][1:]]) for name, shape in first.items())]
    return [*words, "--val-range", f"'timestep:[0,{_TIMESTEPS - 1}]'"] if "timestep" in first else words


def _shape(name: str, shape: Sequence[int]) -> str:
    return f"'{name}:[{','.join(map(str, shape))}]'"
