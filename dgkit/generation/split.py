"""How a machine is shared among workers: one for each GPU, or one for each group of CPU cores."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgkit import __version__
from dgkit.errors import DgkitError, EngineError
from dgkit.files import atomic_write, cache_folder
from dgkit.generation.blocks import Notify
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.worker import Failed, Measure, Ready, Setup, Speed
from dgkit.generation.workers import raise_failure, start, stop
from dgkit.processes import describe_exit
from dgkit.provenance import cpu_name, version
from dgkit.resources import available_memory, usable_cores

if TYPE_CHECKING:
    from dgkit.diffusion.pipeline import Pipeline

MEASURED = 4.0  # seconds of denoiser calls for one split
MEMORY_SHARE = 0.8  # of what is free that workers may take


def setups(config: GenerateConfig, pipeline: "Pipeline", workers: int) -> list[Setup]:
    """What each of ``workers`` processes computes with: GPUs in turn, or on a CPU its share of threads and cores.

    The threads are those that torch would use here, divided; a device with a number is shared by all workers.
    """
    import torch

    # One worker must not be the first to build an engine of this run and the next to build it again.
    config = config.model_copy(update={"rebuild": "auto" if config.rebuild == "always" else config.rebuild})
    threads = max(1, torch.get_num_threads() // workers)
    if pipeline.device.type != "cuda":
        return [Setup(config, threads, cores) for cores in core_groups(workers)]
    if not _spreads(config):
        return [Setup(config, threads, ()) for _ in range(workers)]
    devices = [f"cuda:{number % torch.cuda.device_count()}" for number in range(workers)]
    return [Setup(config.model_copy(update={"device": device}), threads, ()) for device in devices]


def machine_workers(config: GenerateConfig, pipeline: "Pipeline", notify: Notify | None = None) -> int:
    """Workers that suit this machine: one for each GPU; on a CPU the number whose denoiser calls together are fastest.

    What was measured on a CPU is kept in the cache folder for this processor, model, engine and batch.
    """
    import torch

    if pipeline.device.type == "cuda":
        return torch.cuda.device_count() if _spreads(config) else 1
    path = cache_folder() / "splits" / f"{_key(config, torch.get_num_threads())}.json"
    try:
        return int(json.loads(path.read_bytes())["workers"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    rates = _measure_all(config, pipeline, torch.get_num_threads(), notify or (lambda message: None))
    best = max(rates, key=lambda workers: rates[workers])
    try:
        atomic_write(path, json.dumps({"workers": best, "samples_per_second": rates}).encode())
    except DgkitError:
        pass  # a cache folder that cannot be written costs a measurement, no more
    return best


def core_groups(count: int) -> list[tuple[int, ...]]:
    """The cores of this process in ``count`` groups, neighbours together; empty ones where there are too few cores."""
    cores = sorted(usable_cores(), key=_place)
    if len(cores) < count or not hasattr(os, "sched_setaffinity"):  # no system call to keep a worker on its cores
        return [()] * count
    borders = [number * len(cores) // count for number in range(count + 1)]
    return [tuple(cores[low:high]) for low, high in pairwise(borders)]


def _spreads(config: GenerateConfig) -> bool:
    """Whether the settings leave open which GPU it is."""
    recipe = config.engine_recipe if isinstance(config.engine_recipe, dict) else {}
    device = config.device if config.device != "auto" else recipe.get("device", "auto")
    return device in ("auto", "cuda")


def _place(core: int) -> tuple[int, int, int]:
    """Socket, physical core, number: threads of one core and cores of one socket become neighbours."""
    folder = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        socket, physical = (int((folder / name).read_text()) for name in ("physical_package_id", "core_id"))
    except (OSError, ValueError):
        socket, physical = 0, core
    return socket, physical, core


def _measure_all(config: GenerateConfig, pipeline: "Pipeline", threads: int, notify: Notify) -> dict[int, float]:
    """Denoiser samples a second of 1, 2, 4, ... workers, until it falls or the memory would not do."""
    rates: dict[int, float] = {}
    workers, memory = 1, 0
    while workers <= threads and workers * memory <= MEMORY_SHARE * available_memory():
        speeds = measure_split(setups(config, pipeline, workers))
        rates[workers] = sum(speed.rate for speed in speeds)
        memory = max(speed.memory for speed in speeds)
        notify(f"{workers} x {threads // workers} threads: {rates[workers]:.2f} denoiser samples a second")
        if rates[workers] < max(rates.values()):
            break
        workers *= 2
    return rates


def measure_split(split: Sequence[Setup], seconds: float = MEASURED) -> list[Speed]:
    """What each worker of a split can do while all of them work. Raises what a worker raises."""
    with ExitStack() as stack:
        workers = []
        for setup in split:
            connection, process = start(setup)
            stack.callback(stop, process, connection)
            workers.append((connection, process))

        def hear(number: int) -> Any:
            connection, process = workers[number]
            try:
                message = connection.recv()
            except (EOFError, OSError):
                raise EngineError(
                    f"a worker {describe_exit(process.wait())} while the machine was measured", "use --workers 1"
                ) from None
            if isinstance(message, Failed):
                raise_failure(message)
            return message

        for number in range(len(workers)):
            assert isinstance(hear(number), Ready)
        for connection, _ in workers:
            connection.send(Measure(seconds))
        return [hear(number) for number in range(len(workers))]


def _key(config: GenerateConfig, threads: int) -> str:
    machine = [__version__, version("torch"), cpu_name(), usable_cores(), threads]
    facts = [machine, config.model_digest, config.batch, config.engine, config.dtype, config.engine_recipe]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:24]
