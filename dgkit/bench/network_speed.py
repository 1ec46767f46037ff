"""Measure one network on one engine: its reference, the build of its engine, and its figures."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dgkit import __version__
from dgkit.bench.bench_config import IMAGE_SUBJECTS, BenchTask
from dgkit.bench.memory import MIB, DeviceMemory, peak_rss
from dgkit.bench.task_process import attempt
from dgkit.bench.timing import synchronize, time_calls
from dgkit.diffusion.components import model_networks
from dgkit.diffusion.loading import open_model
from dgkit.diffusion.model_folder import ModelSource
from dgkit.engines.build_plan import inspect, is_due
from dgkit.engines.compare import compare_outputs, run_in_batches
from dgkit.engines.machine import device_facts
from dgkit.engines.onnx_export import example_inputs
from dgkit.engines.runner import BuildOptions, Network, Runner, find_device, runner_class
from dgkit.engines.store import Engine, Policy
from dgkit.files import atomic_path

ROWS = 2  # samples of which the outputs are compared
FLOPS = "flops"  # key in the reference file, next to the names of the outputs


def build(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Build missing engines; yield their build time and size, and the peak memory if any was built now."""
    runner = _runner(task, open_model(task.model, loras=task.lora), task.rebuild)
    built = builds_engines({task.subject: runner})
    yield describe_engines(runner.prepare(), built)


def builds_engines(runners: Mapping[str, Runner]) -> bool:
    """Return whether preparing ``runners``, by name of their network, builds an engine."""
    return any(is_due(inspect(name, runner.engine, runner), runner) for name, runner in runners.items())


def describe_engines(engines: list[Engine], built: bool) -> dict[str, Any]:
    """Return the cells on engine files; an engine of several networks counts once."""
    distinct = {engine.name: engine for engine in engines}.values()
    if not distinct:
        return {}
    return {
        "build_s": sum(engine.sidecar.seconds for engine in distinct),
        "file_mib": sum(engine.sidecar.size for engine in distinct) / MIB,
        **({"build_rss_mib": peak_rss()} if built else {}),
    }


def reference(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Write the outputs of eager PyTorch in fp32 and the flops of a sample to a file of ``task.references``."""
    network = model_networks(open_model(task.model, loras=task.lora))[task.subject]
    path = reference_path(task, network.digest())
    if path is None or path.is_file():
        yield {}
        return
    device = find_device(task.device)
    inputs = _inputs(network, ROWS, device)
    module = network.load().to(device=device, dtype=torch.float32).eval()
    with torch.inference_mode(), exact():
        found = module(*inputs.values())
    outputs = dict(
        zip((spec.name for spec in network.spec.outputs), found if isinstance(found, tuple) else (found,), strict=True)
    )
    arrays = {name: value.float().cpu().numpy() for name, value in outputs.items()}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{**arrays, FLOPS: np.float64(count_flops(network, module))})
    yield {}


def exact() -> AbstractContextManager[None]:
    """Return a context in which convolutions in fp32 do not round their inputs to TF32, PyTorch's default on a GPU."""
    flags = torch.backends.cudnn
    return flags.flags(enabled=True, benchmark=flags.benchmark, deterministic=flags.deterministic, allow_tf32=False)


def reference_path(task: BenchTask, digest: str) -> Path | None:
    """Return the file for the reference of weights with ``digest``; None if references are not kept."""
    if task.references is None:
        return None
    facts: dict[str, Any] = {"model": digest}
    if task.subject in IMAGE_SUBJECTS:
        facts |= {"preset": task.preset, "steps": str(task.steps)}
    return task.references / f"{task.subject}-{reference_key(task, facts)}.npz"


def reference_key(task: BenchTask, facts: Mapping[str, Any]) -> str:
    """Return a key of what a reference depends on: ``facts``, the device, and the versions of torch and dgkit."""
    machine = {"torch": torch.__version__, "device": device_facts(task.device), "dgkit": __version__}
    return hashlib.sha256(json.dumps({**machine, **facts}, sort_keys=True).encode()).hexdigest()[:16]


def count_flops(network: Network, module: nn.Module) -> float:
    """Return the floating-point operations of one sample, as counted by torch; ``module`` loses its weights.

    Matrix products and convolutions count, with two operations per multiply-add; attention counts as two products.
    """
    inputs = {name: value.to("meta") for name, value in example_inputs(network, batch=1).items()}
    # The counter knows matrix products, but not every fused attention kernel.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module.to("meta")(*inputs.values())
    return float(counter.get_total_flops())


def measure(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Yield cells of each batch on one engine in one dtype; the engine is built already.

    A batch that fails does not stop the others. Only the first batch has ``load_s``.
    """
    device = find_device(task.device)
    model = open_model(task.model, loras=task.lora)
    runner = _runner(task, model, "never")
    memory = DeviceMemory(device)
    started = time.perf_counter()
    with runner:
        model.release()  # the runner keeps what it needs
        for number, batch in enumerate(task.batches):
            cells = attempt(_measure_batch, runner, task, batch, memory, started)
            if number:
                cells.pop("load_s", None)
            yield {"batch": batch, **cells}


def _measure_batch(runner: Runner, task: BenchTask, batch: int, memory: DeviceMemory, started: float) -> dict[str, Any]:
    device = runner.device
    inputs = _inputs(runner.network, batch, device)
    memory.forget()
    outputs = runner(**inputs)
    synchronize(device)
    seconds = time.perf_counter() - started
    times = time_calls(lambda: runner(**inputs), device, task.repeats, task.seconds)
    cells = {**times.row(batch), "load_s": seconds, "rss_mib": peak_rss(), **memory.row()}
    return {**cells, **_compare(runner, task, batch, outputs, times.median)}


def _runner(task: BenchTask, model: ModelSource, rebuild: Policy) -> Runner:
    network = model_networks(model)[task.subject]
    runner: Runner = runner_class(task.engine)(
        network, task.device, task.dtype, rebuild=rebuild, options=build_options(task)
    )
    return runner


def build_options(task: BenchTask) -> BuildOptions:
    """Return the default options, which other commands share, unless a batch exceeds their range."""
    least, usual, most = BuildOptions().batch
    return BuildOptions(batch=(least, usual, max(most, task.largest)), cuda_graph=task.cuda_graph, threads=task.threads)


def _inputs(network: Network, batch: int, device: torch.device) -> dict[str, Tensor]:
    """Return inputs on the device; sample n is the same in every batch."""
    samples = [example_inputs(network, batch=1, seed=number) for number in range(batch)]
    return {name: torch.cat([sample[name] for sample in samples]).to(device) for name in samples[0]}


def _compare(
    runner: Runner, task: BenchTask, batch: int, found: Mapping[str, Tensor], milliseconds: float
) -> dict[str, Any]:
    """Return the error against the reference and the rate by its count of flops; empty without a reference.

    The error of a quantised network is that on the held-out calls kept with its engine, against fp32.
    """
    path = reference_path(task, runner.network.digest())
    if path is None or not path.is_file():
        return {}
    with np.load(path) as file:
        arrays = {name: file[name] for name in file}
    flops = float(arrays.pop(FLOPS))
    expected = {name: torch.from_numpy(array[:batch]) for name, array in arrays.items()}
    if held_out := runner.held_out():
        found, expected = run_in_batches(runner, held_out[0], batch), held_out[1]
    sides = ("torch:fp32", f"{task.engine}:{task.dtype}")
    values = {name: found[name][: len(value)].float().cpu() for name, value in expected.items()}
    checks = compare_outputs(task.subject, sides, expected, values, float("inf"))
    problems = "; ".join(check.not_finite for check in checks if check.not_finite)
    cells: dict[str, Any] = {"tflops": flops * batch / milliseconds / 1e9}
    if problems:
        return {**cells, "error": problems}
    return {**cells, "parity": max(check.relative for check in checks)}
