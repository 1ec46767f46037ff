"""Actors of a Ray cluster that generate the images of a run, each with its own copy of the model.

The process that runs ``generate`` prepares the jobs and writes the folder, as with local workers. The nodes need dgkit
and the model, but neither the label maps nor the output folder.
"""

import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from dgkit.errors import DgkitError, EngineError, ModelError, UsageError
from dgkit.generation.blocks import Block
from dgkit.generation.encoding import EncodedImage, encode
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.scene_generator import SceneGenerator
from dgkit.generation.workers import MAX_DEATHS, QUEUE, SHORT_OF_MEMORY
from dgkit.optional import first_line, require
from dgkit.progress import Notify

LOCAL = "local"
CONNECT_SECONDS = 10


class GeneratorActor:
    """A Ray actor: it loads the model with its first block and keeps it loaded."""

    def __init__(self, config: GenerateConfig, threads: int | None) -> None:
        self._config, self._threads = config, threads
        self._generator: SceneGenerator | None = None

    def generate(self, block: Block) -> list[EncodedImage]:
        """Return the records and files of the wanted images of a block. Raises ModelError for other weights."""
        if self._generator is None:
            self._generator = self._open()
        return [encode(image) for image in self._generator.generate(block, lambda share: None)]

    def _open(self) -> SceneGenerator:
        import torch

        if self._threads is not None:
            torch.set_num_threads(self._threads)
        generator = SceneGenerator(self._config)
        digest = generator.pipeline.identity()["digest"]
        if digest != self._config.model_digest:
            raise ModelError(
                f"the model on node {_node()} has digest {digest[:16]}..., "
                f"this run uses the model with digest {str(self._config.model_digest)[:16]}...",
                "copy the model of the run to the same path on every node",
            )
        return generator.__enter__()


class RayPool:
    """Actors of a Ray cluster; a :class:`~dgkit.generation.flow.Pool` inside ``with``.

    At most ``blocks`` actors are started. If an actor or its node dies, Ray restarts it and repeats its blocks.

    Raises EngineError if the cluster cannot be reached or a block fails three times, UsageError if the cluster has
    fewer cores or GPUs than workers requested, MissingDependency without Ray.
    """

    def __init__(self, config: GenerateConfig, blocks: int, notify: Notify | None = None) -> None:
        self._ray: Any = require("ray", "ray")
        self._config, self._blocks = config, blocks
        self._notify = notify or (lambda message: None)
        self._actors: list[Any] = []
        self._load: Counter[int] = Counter()  # blocks in flight, by actor
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
        """Send a block to the actor with the fewest."""
        number = min(range(len(self._actors)), key=lambda number: self._load[number])
        self._load[number] += 1
        self._tasks[self._actors[number].generate.remote(block)] = number, block

    def fetch(self) -> tuple[Block, Iterable[EncodedImage]]:
        """Wait for the next finished block. Raises the error of an actor, or EngineError if actors keep dying."""
        (done,), _ = self._ray.wait(list(self._tasks), num_returns=1)
        return self._take(done)

    def finished(self) -> Iterable[tuple[Block, Iterable[EncodedImage]]]:
        """Return the blocks that actors have finished and nobody has fetched."""
        waiting = list(self._tasks)
        done, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0) if waiting else ((), ())
        return map(self._take, done)

    def _take(self, done: Any) -> tuple[Block, Iterable[EncodedImage]]:
        number, block = self._tasks.pop(done)
        self._load[number] -= 1
        try:
            images = self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, DgkitError) else error from None
        except self._ray.exceptions.RayError as error:
            raise EngineError(
                f"an actor was lost {MAX_DEATHS} times at image {block.start}: {first_line(error)}", SHORT_OF_MEMORY
            ) from error
        return block, images

    def _connect(self) -> None:
        self._joined = bool(self._ray.is_initialized())  # the caller's own connection, which stays open
        if self._joined:
            return
        _reach(str(self._config.ray))
        handler = signal.getsignal(signal.SIGTERM)
        try:
            self._ray.init(address=self._config.ray, log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _no_cluster(str(self._config.ray), error) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray sets its own, which ends the process without a message

    def _start(self) -> None:
        resources = self._ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        on_gpu = gpus > 0 and self._config.device != "cpu"
        nodes = sum(bool(node["Alive"]) for node in self._ray.nodes())
        requested = self._config.workers if isinstance(self._config.workers, int) else 0
        wanted = requested or (gpus if on_gpu else nodes)
        available = gpus if on_gpu else cpus
        if wanted > available:
            unit = "GPUs" if on_gpu else "CPU cores"
            raise UsageError(
                f"{wanted} workers on a cluster of {available} {unit}", f"use --workers {max(1, available)}"
            )
        threads = max(1, cpus // wanted)
        # Ray shows each actor only its own GPU, as number 0.
        device = "cuda" if on_gpu else "cpu"
        config = self._config.model_copy(update={"device": device, "ray": None})
        options = {"num_cpus": 1 if on_gpu else threads, "num_gpus": 1 if on_gpu else 0}
        remote = self._ray.remote(GeneratorActor).options(max_restarts=-1, max_task_retries=MAX_DEATHS - 1, **options)
        for _ in range(min(wanted, self._blocks)):
            self._actors.append(remote.remote(config, None if on_gpu else threads))
        self.capacity = QUEUE * len(self._actors)
        self._notify(f"{len(self._actors)} Ray actors on {nodes} nodes, on the {'GPU' if on_gpu else 'CPU'}")


def _reach(address: str) -> None:
    """Raise EngineError if nothing listens at an address: Ray itself would keep trying for ten minutes."""
    match = re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address)
    if match:
        try:
            socket.create_connection((match[1], int(match[2])), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> EngineError:
    return EngineError(
        f"no Ray cluster at {address!r}: {first_line(error)}",
        f"start one with `ray start --head`, or use --ray {LOCAL}",
    )


def _node() -> str:
    import platform

    return platform.node()
