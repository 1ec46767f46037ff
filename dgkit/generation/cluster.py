"""The images of a run made by actors of a Ray cluster, one model in each.

The process that runs ``generate`` makes the jobs and writes the folder, as it does with its own workers: the nodes need
dgkit and the model, not the label maps and not the output folder.
"""

import re
import socket
from collections import Counter
from contextlib import suppress
from typing import Any

from dgkit.errors import DgkitError, EngineError, ModelError, UsageError
from dgkit.generation.blocks import Block, Maker, Notify, Scene, encode_all
from dgkit.generation.flow import Packed
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.workers import MAX_DEATHS, QUEUE
from dgkit.optional import first_line, require

LOCAL = "local"
CONNECT_SECONDS = 10


class Drawer:
    """What an actor is: it loads the model when it draws its first block, and keeps it."""

    def __init__(self, config: GenerateConfig, threads: int | None) -> None:
        self._config, self._threads = config, threads
        self._maker: Maker | None = None

    def draw(self, block: Block) -> list[Scene]:
        """The files of the wanted images of a block."""
        if self._maker is None:
            self._maker = self._open()
        return encode_all(self._maker.draw(block, lambda share: None))

    def _open(self) -> Maker:
        import torch

        if self._threads is not None:
            torch.set_num_threads(self._threads)
        maker = Maker(self._config)
        digest = maker.pipeline.identity()["digest"]
        if digest != self._config.model_digest:
            raise ModelError(
                f"the model on node {_node()} has digest {digest[:16]}..., "
                f"the run's is {str(self._config.model_digest)[:16]}...",
                "copy the model of the run to the same path on every node",
            )
        return maker.__enter__()


class RayPool:
    """Actors that draw; a :class:`~dgkit.generation.flow.Pool` inside ``with``.

    At most ``blocks`` of them are started. Ray starts an actor again where it or its node dies, and repeats its blocks.
    EngineError where the cluster cannot be reached or a block fails three times; MissingDependency without Ray.
    """

    def __init__(self, config: GenerateConfig, blocks: int, notify: Notify | None = None) -> None:
        self._ray: Any = require("ray", "ray")
        self._config, self._blocks = config, blocks
        self._notify = notify or (lambda message: None)
        self._actors: list[Any] = []
        self._load: Counter[int] = Counter()  # blocks under way, by actor
        self._tasks: dict[Any, tuple[int, Block]] = {}
        self._joined = False
        self.capacity = QUEUE

    def __enter__(self) -> "RayPool":
        try:
            self._connect()
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for actor in self._actors:
            with suppress(Exception):
                self._ray.kill(actor)
        if not self._joined:
            self._ray.shutdown()

    def submit(self, block: Block) -> None:
        number = min(range(len(self._actors)), key=lambda number: self._load[number])
        self._load[number] += 1
        self._tasks[self._actors[number].draw.remote(block)] = number, block

    def fetch(self) -> tuple[Block, Packed]:
        (done,), _ = self._ray.wait(list(self._tasks), num_returns=1)
        number, block = self._tasks.pop(done)
        self._load[number] -= 1
        try:
            scenes = self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, DgkitError) else error from None
        except self._ray.exceptions.RayError as error:
            raise EngineError(
                f"an actor was lost {MAX_DEATHS} times at image {block.start}: {first_line(error)}",
                "if memory is short: fewer --workers or a smaller --batch; the same command continues",
            ) from error
        return block, lambda: scenes

    def _connect(self) -> None:
        self._joined = bool(self._ray.is_initialized())  # by whoever calls this as a library; theirs to end
        if self._joined:
            return
        _reach(str(self._config.ray))
        try:
            self._ray.init(address=self._config.ray, log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _nobody(str(self._config.ray), error) from error

    def _start(self) -> None:
        resources = self._ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        on_gpu = gpus > 0 and self._config.device != "cpu"
        nodes = sum(bool(node["Alive"]) for node in self._ray.nodes())
        asked = self._config.workers if isinstance(self._config.workers, int) else 0
        wanted = asked or (gpus if on_gpu else nodes)
        most = gpus if on_gpu else cpus
        if wanted > most:
            what = "GPUs" if on_gpu else "CPU cores"
            raise UsageError(f"{wanted} workers on a cluster of {most} {what}", f"use --workers {max(1, most)}")
        threads = max(1, cpus // wanted)
        # Ray shows an actor its own GPU only, which is number 0 there.
        device = "cuda" if on_gpu else "cpu"
        config = self._config.model_copy(update={"device": device, "ray": None})
        options = {"num_cpus": 1 if on_gpu else threads, "num_gpus": 1 if on_gpu else 0}
        remote = self._ray.remote(Drawer).options(max_restarts=-1, max_task_retries=MAX_DEATHS - 1, **options)
        for _ in range(min(wanted, self._blocks)):
            self._actors.append(remote.remote(config, None if on_gpu else threads))
        self.capacity = QUEUE * len(self._actors)
        self._notify(f"{len(self._actors)} Ray actors on {nodes} nodes, on the {'GPU' if on_gpu else 'CPU'}")


def _reach(address: str) -> None:
    """Raise EngineError where nobody listens at an address: Ray itself would go on trying for ten minutes."""
    match = re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address)
    if match:
        try:
            socket.create_connection((match[1], int(match[2])), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise _nobody(address, error) from error


def _nobody(address: str, error: Exception) -> EngineError:
    return EngineError(
        f"no Ray cluster at {address!r}: {first_line(error)}",
        f"start one with `ray start --head`, or use --ray {LOCAL}",
    )


def _node() -> str:
    import platform

    return platform.node()
