"""How the workers of a run share a machine: one per GPU, or one per group of CPU cores."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgkit import __version__
from dgkit.errors import DgkitError, EngineError
from dgkit.files import atomic_write, cache_folder, parse_json, read_file
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.worker import Failed, MeasureSpeed, Ready, Speed, WorkerSetup
from dgkit.generation.workers import raise_failure, start, stop
from dgkit.processes import describe_exit
from dgkit.progress import Notify
from dgkit.provenance import cpu_name, version
from dgkit.resources import available_memory, usable_cores

if TYPE_CHECKING:
    from dgkit.diffusion.pipeline import Pipeline

MEASURE_SECONDS = 4.0  # of denoiser calls for each number of workers
MEMORY_SHARE = 0.8  # of the free memory that workers may take


def worker_setups(config: GenerateConfig, pipeline: "Pipeline", workers: int) -> list[WorkerSetup]:
    """Return the setup of each of ``workers`` processes: GPUs in turn, or on a CPU its share of threads and cores.

    The threads that torch would use here are divided among the workers. All workers share a device with a number.
    """
    import torch

    # "always" would make each worker build the engines of this run again.
    config = config.model_copy(update={"rebuild": "auto" if config.rebuild == "always" else config.rebuild})
    threads = max(1, torch.get_num_threads() // workers)
    if pipeline.device.type != "cuda":
        return [WorkerSetup(config, threads, cores) for cores in core_groups(workers)]
    if not _any_gpu(config):
        return [WorkerSetup(config, threads, ()) for _ in range(workers)]
    devices = [f"cuda:{number % torch.cuda.device_count()}" for number in range(workers)]
    return [WorkerSetup(config.model_copy(update={"device": device}), threads, ()) for device in devices]


def best_worker_count(config: GenerateConfig, pipeline: "Pipeline", notify: Notify | None = None) -> int:
    """Return the best number of workers: one per GPU; on a CPU the number with the highest total denoiser throughput.

    A CPU measurement is cached for this processor, model, engine and batch.
    """
    import torch

    if pipeline.device.type == "cuda":
        return torch.cuda.device_count() if _any_gpu(config) else 1
    path = cache_folder() / "splits" / f"{_key(config, torch.get_num_threads())}.json"
    try:
        return int(parse_json(read_file(path))["workers"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    rates = _measure_all(config, pipeline, torch.get_num_threads(), notify or (lambda message: None))
    best = max(rates, key=lambda workers: rates[workers])
    with suppress(DgkitError):  # without a cache folder the next run measures again
        atomic_write(path, json.dumps({"workers": best, "samples_per_second": rates}).encode())
    return best


def core_groups(count: int) -> list[tuple[int, ...]]:
    """Return the cores of this process in ``count`` groups of neighbours; empty groups if there are fewer cores."""
    cores = sorted(usable_cores(), key=_topology)
    if len(cores) < count or not hasattr(os, "sched_setaffinity"):  # a worker cannot be kept on its cores
        return [()] * count
    borders = [number * len(cores) // count for number in range(count + 1)]
    return [tuple(cores[low:high]) for low, high in pairwise(borders)]


def _any_gpu(config: GenerateConfig) -> bool:
    """Return whether the settings leave the choice of GPU open."""
    recipe = config.engine_recipe if isinstance(config.engine_recipe, dict) else {}
    device = config.device if config.device != "auto" else recipe.get("device", "auto")
    return device in ("auto", "cuda")


def _topology(core: int) -> tuple[int, int, int]:
    """Return (socket, physical core, number): sorts threads of a core and cores of a socket next to each other."""
    folder = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        socket, physical = (int((folder / name).read_text()) for name in ("physical_package_id", "core_id"))
    except (OSError, ValueError):
        socket, physical = 0, core
    return socket, physical, core


def _measure_all(config: GenerateConfig, pipeline: "Pipeline", threads: int, notify: Notify) -> dict[int, float]:
    """Return the denoiser samples per second of 1, 2, 4, ... workers, up to a decline or the free memory."""
    rates: dict[int, float] = {}
    workers, memory = 1, 0
    while workers <= threads and workers * memory <= MEMORY_SHARE * available_memory():
        speeds = measure_workers(worker_setups(config, pipeline, workers))
        rates[workers] = sum(speed.rate for speed in speeds)
        memory = max(speed.memory for speed in speeds)
        notify(f"{workers} x {threads // workers} threads: {rates[workers]:.2f} denoiser samples per second")
        if rates[workers] < max(rates.values()):
            break
        workers *= 2
    return rates


def measure_workers(setups: Sequence[WorkerSetup], seconds: float = MEASURE_SECONDS) -> list[Speed]:
    """Return the speed of each worker while all of them work. Raises the error of a worker, or EngineError."""
    with ExitStack() as stack:
        workers = []
        for setup in setups:
            connection, process = start(setup)
            stack.callback(stop, process, connection)
            workers.append((connection, process))

        def receive(number: int) -> Any:
            connection, process = workers[number]
            try:
                message = connection.recv()
            except (EOFError, OSError):
                raise EngineError(
                    f"a worker {describe_exit(process.wait())} while --workers auto measured this machine",
                    "use --workers 1",
                ) from None
            if isinstance(message, Failed):
                raise_failure(message)
            return message

        for number in range(len(workers)):
            assert isinstance(receive(number), Ready)
        for connection, _ in workers:
            connection.send(MeasureSpeed(seconds))
        return [receive(number) for number in range(len(workers))]


def _key(config: GenerateConfig, threads: int) -> str:
    machine = [__version__, version("torch"), cpu_name(), usable_cores(), threads]
    facts = [machine, config.model_digest, config.batch, config.engine, config.dtype, config.engine_recipe]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:24]
