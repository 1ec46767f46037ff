"""A worker process, which generates blocks for its parent: ``python -m dgkit.generation.worker DESCRIPTOR``.

:mod:`dgkit.generation.workers` starts it and talks to it over an inherited socket. The worker receives one
:class:`WorkerSetup`, then blocks. It sends :class:`Ready`, :class:`BlockProgress`, :class:`Note` and
:class:`BlockDone`, and :class:`Failed` as its last message. It owns no file of the run, so it can be killed at any
moment. It exits when the parent is gone.
"""

import os
import pickle
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from dgkit.generation.blocks import Block
from dgkit.generation.encoding import EncodedImage, GeneratedImage, encode
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.scene_generator import SceneGenerator
from dgkit.resources import peak_memory

PROGRESS_STEP = 0.01  # smallest share of a block worth a message
EXIT_DELAY = 10  # seconds a failed worker waits, so that its parent reads the last message


@dataclass(frozen=True)
class WorkerSetup:
    """How a worker computes: ``threads`` of torch on the CPU cores with the numbers ``cores``, empty for any core."""

    config: GenerateConfig
    threads: int
    cores: tuple[int, ...]


class MeasureSpeed(NamedTuple):
    """A request for a :class:`Speed`, measured for about ``seconds``."""

    seconds: float


class Ready(NamedTuple):
    """The message that the model is loaded."""


class BlockProgress(NamedTuple):
    """The finished ``share``, 0 to 1, of the block that begins with job ``start``."""

    start: int
    share: float


class BlockDone(NamedTuple):
    """The wanted images of the block that begins with job ``start``."""

    start: int
    images: list[EncodedImage]


class Note(NamedTuple):
    """A line for the user, such as a smaller batch after the device ran out of memory."""

    text: str


class Speed(NamedTuple):
    """Denoiser samples per second, and the peak memory of the process in bytes."""

    rate: float
    memory: int


class Failed(NamedTuple):
    """The error that ended the worker, and its traceback as text."""

    error: BaseException
    trace: str


def main(descriptor: int) -> None:
    """Serve until the parent closes the connection. Errors are sent, not raised."""
    connection = Connection(descriptor)
    sending = threading.Lock()  # one thread sends images, another progress

    def send(message: object) -> None:
        try:
            with sending:
                connection.send(message)
        except OSError:
            os._exit(0)  # the parent is gone

    try:
        _serve(connection, send)
    except BaseException as error:
        send(_failure(error))
        time.sleep(EXIT_DELAY)  # the parent ends this process; exiting first could lose the message


def _serve(connection: Connection, send: Callable[[object], None]) -> None:
    setup: WorkerSetup = connection.recv()
    inbox: queue.SimpleQueue[Block | MeasureSpeed] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    if setup.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, setup.cores)  # before torch starts its threads, which inherit it
    import torch

    torch.set_num_threads(setup.threads)

    def say(text: str) -> None:
        send(Note(text))

    with SceneGenerator(setup.config, notify=say) as generator, ThreadPoolExecutor(1, "dgkit-encode") as encoder:
        send(Ready())
        before: Future[None] | None = None
        while True:
            request = inbox.get()
            if isinstance(request, MeasureSpeed):
                send(measure(generator, request.seconds))
                continue
            images = generator.generate(request, _block_progress(request, send))
            if before is not None:
                before.result()  # encode one block while the next is generated, and no more than one
            before = encoder.submit(_encode_block, request.start, images, send)


def _listen(connection: Connection, inbox: "queue.SimpleQueue[Any]") -> None:
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)  # the parent is gone, so nobody waits for the current block
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # the parent would wait forever for a worker that no longer receives


def _encode_block(start: int, images: list[GeneratedImage], send: Callable[[object], None]) -> None:
    send(BlockDone(start, [encode(image) for image in images]))


def _block_progress(block: Block, send: Callable[[object], None]) -> Callable[[float], None]:
    reported = 0.0

    def advance(share: float) -> None:
        nonlocal reported
        if share - reported >= PROGRESS_STEP:
            reported = share
            send(BlockProgress(block.start, share))

    return advance


def measure(generator: SceneGenerator, seconds: float) -> Speed:
    """Return the speed of the denoiser at the configured batch: one warm-up call, then calls for ``seconds``."""
    import torch

    from dgkit.diffusion.pipeline import one_hot

    pipeline, batch = generator.pipeline, generator.config.samples
    pixels, tile = pipeline.tile * pipeline.vae_factor, pipeline.tile
    with torch.inference_mode():
        encoded = {name: value.repeat_interleave(batch, 0) for name, value in pipeline.encode_text([""]).items()}
        added = pipeline.added(encoded, pixels, pixels)
        labels = torch.zeros(1, pixels, pixels, dtype=torch.uint8, device=pipeline.device)
        condition = (
            pipeline.condition(one_hot(labels, pipeline.info.taxonomy.channels)).expand(batch, -1, -1, -1).contiguous()
        )
        latents = torch.zeros(batch, pipeline.latent_channels, tile, tile, device=pipeline.device)
        timestep = torch.full((batch,), 500, dtype=torch.int64, device=pipeline.device)
        calls, started = -1, time.perf_counter()
        while calls < 1 or time.perf_counter() - started < seconds:
            pipeline.denoise(latents, timestep, encoded["text"], condition, **added)
            calls += 1
            if calls == 0:
                started = time.perf_counter()
        return Speed(calls * batch / (time.perf_counter() - started), peak_memory() or 0)


def _failure(error: BaseException) -> Failed:
    trace = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return Failed(error, trace)


if __name__ == "__main__":
    # Imported by name: the parent could not unpickle classes of __main__.
    from dgkit.generation.worker import main as serve

    serve(int(sys.argv[1]))
