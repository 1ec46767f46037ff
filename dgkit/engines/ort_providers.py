"""Execution providers of ONNX Runtime: which ones a session asks for, in which order and with which options.

Everything here is a pure function of the options and of the providers that the installed ONNX Runtime has. Sources: the
documentation of ONNX Runtime, "CUDA Execution Provider", "TensorRT Execution Provider" and "NVIDIA TensorRT RTX
Execution Provider".
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dgkit.engines.runner import BuildOptions, Network
from dgkit.engines.spec import TensorSpec
from dgkit.errors import EngineError, MissingDependency, UsageError
from dgkit.optional import install_command

CPU = "cpu"
NAMES = {
    "tensorrt": "TensorrtExecutionProvider",
    "rtx": "NvTensorRTRTXExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    CPU: "CPUExecutionProvider",
}
ON_GPU = frozenset(NAMES.values()) - {NAMES[CPU]}
Provider = tuple[str, dict[str, Any]]
"""A provider by ONNX Runtime's name, and its options."""


@dataclass(frozen=True)
class ProviderPlan:
    """What a session is for: ``ranges`` holds (minimum, optimum, maximum) of each symbol that may change, empty if an
    engine cannot cover them in one range; ``cache`` returns the folder for engines that a provider builds.
    """

    network: Network
    device: torch.device
    dtype: str
    options: BuildOptions
    ranges: Mapping[str, tuple[int, int, int]]
    cache: Callable[[], Path]

    def providers(self, available: Sequence[str]) -> list[Provider]:
        """Return the providers to ask for, in order of preference.

        Raises UsageError for a combination that is not allowed, MissingDependency for a provider that the installed
        ONNX Runtime lacks.
        """
        chosen = requested(self.device, self.options)
        for name in chosen:
            if NAMES[name] not in available:
                raise MissingDependency(
                    f"the installed onnxruntime has no {NAMES[name]}, only {', '.join(available)}", _remedy(name)
                )
        return [(NAMES[name], _OPTIONS[name](self)) for name in chosen]


def requested(device: torch.device, options: BuildOptions) -> tuple[str, ...]:
    """Return the short names of the providers for ``device``: those of the options, else the usual ones.

    On a GPU that is CUDA's, after TensorRT's if an optimisation level is set. Raises UsageError for providers that the
    device cannot use, or that ONNX Runtime does not combine.
    """
    found: tuple[str, ...] = tuple(options.providers)
    if not found:
        found = (CPU,) if device.type == "cpu" else ("cuda",)
        return ("tensorrt", *found) if device.type == "cuda" and options.optimisation_level is not None else found
    if len(set(found)) != len(found):
        raise UsageError(f"providers {', '.join(found)}; each may be named once", "for example providers=[rtx,cuda]")
    if device.type == "cpu" and found != (CPU,):
        raise UsageError(f"providers {', '.join(found)} need a GPU; the device is cpu", "use --device cuda")
    if device.type == "cuda" and CPU in (found[0], *found[:-1]):
        raise UsageError(
            f"providers {', '.join(found)} on {device}: cpu may only be the last one",
            "use --device cpu for the CPU alone",
        )
    if {"tensorrt", "rtx"} <= set(found):
        raise UsageError("the providers tensorrt and rtx cannot be combined", "name one of them")
    return found


def check_taken(asked: Iterable[Provider], taken: Sequence[str], owner: str) -> None:
    """Raise EngineError if ONNX Runtime left out a requested provider, which it does without an error."""
    for name, _ in asked:
        if name not in taken:
            raise EngineError(
                f"{owner}: {name} does not load; ONNX Runtime would use {taken[0]}",
                "its message above names the missing library; see dgkit doctor, or use --device cpu",
            )


def order_note(asked: Sequence[Provider], network: str) -> str:
    """Return the line about the order of the providers, and about what runs the rest."""
    names = [name.removesuffix("ExecutionProvider") for name, _ in asked]
    return f"engine ort: {network} on {', then '.join(names)}; operators that none of them supports run on the CPU"


def shape_range(specs: Sequence[TensorSpec], sizes: Mapping[str, int], ranges: Mapping[str, tuple[int, int, int]],
                which: int) -> str:  # fmt: skip
    """Return the shapes of all inputs at the minimum (0), optimum (1) or maximum (2): ``latents:1x4x64x64,...``."""

    def shape(spec: TensorSpec) -> str:
        return "x".join(str(ranges[symbol][which] if symbol in ranges else sizes[symbol]) for symbol in spec.shape)

    return ",".join(f"{spec.name}:{shape(spec)}" for spec in specs)


def _remedy(name: str) -> str:
    if name == CPU:
        return install_command("cpu")
    if name == "rtx":
        return "pip install onnxruntime-trt-rtx in place of onnxruntime, or leave rtx out of the providers"
    return f"pip uninstall onnxruntime, then {install_command('gpu')}"


def _shapes(plan: ProviderPlan, prefix: str) -> dict[str, str]:
    """Return the options that make one engine cover the whole range, instead of one for each new shape."""
    if not plan.ranges:
        return {}
    inputs, sizes = plan.network.spec.inputs, plan.network.sizes
    return {
        f"{prefix}_profile_{kind}_shapes": shape_range(inputs, sizes, plan.ranges, which)
        for which, kind in enumerate(("min", "opt", "max"))
    }


def _workspace(plan: ProviderPlan, key: str) -> dict[str, int]:
    limit = plan.options.workspace_gib
    return {} if limit is None else {key: int(limit * 2**30)}


def _cuda(plan: ProviderPlan) -> dict[str, Any]:
    return {"device_id": plan.device.index or 0, "use_tf32": 0}


def _tensorrt(plan: ProviderPlan) -> dict[str, Any]:
    level = plan.options.optimisation_level
    kept = {"enable": 1, "path": str(plan.cache())}
    cache = {f"trt_{kind}_cache_{part}": value for kind in ("engine", "timing") for part, value in kept.items()}
    half = {"trt_fp16_enable": 1} if plan.dtype == "fp16" else {}
    effort = {} if level is None else {"trt_builder_optimization_level": level}
    return {"device_id": plan.device.index or 0, **cache, **half, **effort, **_shapes(plan, "trt"),
            **_workspace(plan, "trt_max_workspace_size")}  # fmt: skip


def _rtx(plan: ProviderPlan) -> dict[str, Any]:
    return {"device_id": plan.device.index or 0, "nv_runtime_cache_path": str(plan.cache()), **_shapes(plan, "nv"),
            **_workspace(plan, "nv_max_workspace_size")}  # fmt: skip


_OPTIONS: dict[str, Callable[[ProviderPlan], dict[str, Any]]] = {
    "tensorrt": _tensorrt, "rtx": _rtx, "cuda": _cuda, CPU: lambda plan: {},
}  # fmt: skip
