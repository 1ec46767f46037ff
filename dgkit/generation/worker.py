"""A process that draws blocks for another one: ``python -m dgkit.generation.worker DESCRIPTOR``.

It is started by :mod:`dgkit.generation.workers` and talks over an inherited socket: first comes a :class:`Setup`, then
blocks; back go :class:`Ready`, :class:`Share`, :class:`Made` and, once and last, :class:`Failed`. It owns no file of
the run, so it may be killed at any moment, and it ends by itself when the other side is gone.
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
from typing import Any

from dgkit.generation.blocks import Block, Maker, Scene, encode_all
from dgkit.generation.generate_config import GenerateConfig
from dgkit.resources import peak_memory

SMALLEST_SHARE = 0.01  # of a block that is worth a message
LAST_WORDS = 10  # seconds a failing worker waits to be heard


@dataclass(frozen=True)
class Setup:
    """``cores``: numbers of the CPU cores to stay on, empty for any; ``threads``: of torch on them."""

    config: GenerateConfig
    threads: int
    cores: tuple[int, ...]


@dataclass(frozen=True)
class Measure:
    """Asks for :class:`Speed`, measured for about so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""


@dataclass(frozen=True)
class Share:
    """So much of the block that begins with job ``start`` is drawn, 0 to 1."""

    start: int
    share: float


@dataclass(frozen=True)
class Made:
    """The wanted images of the block that begins with job ``start``."""

    start: int
    scenes: list[Scene]


@dataclass(frozen=True)
class Speed:
    """Denoiser samples a second, and the peak memory of the process in bytes."""

    rate: float
    memory: int


@dataclass(frozen=True)
class Failed:
    """``error`` ended the worker; ``trace`` tells where."""

    error: BaseException
    trace: str


def main(descriptor: int) -> None:
    """Serve until the other side closes the connection. Does not raise: errors are sent."""
    connection = Connection(descriptor)
    sending = threading.Lock()  # images are sent by a thread, progress by the one that draws

    def send(message: object) -> None:
        try:
            with sending:
                connection.send(message)
        except OSError:
            os._exit(0)  # nobody listens any more

    try:
        _serve(connection, send)
    except BaseException as error:
        send(_failure(error))
        time.sleep(LAST_WORDS)  # the listener ends this process; leaving first could lose the message


def _serve(connection: Connection, send: Callable[[object], None]) -> None:
    setup: Setup = connection.recv()
    inbox: queue.SimpleQueue[Block | Measure] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    if setup.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, setup.cores)  # before torch starts its threads, which inherit it
    import torch

    torch.set_num_threads(setup.threads)
    with Maker(setup.config) as maker, ThreadPoolExecutor(1, "dgkit-encode") as encoder:
        send(Ready())
        before: Future[None] | None = None
        while True:
            task = inbox.get()
            if isinstance(task, Measure):
                send(measure(maker, task.seconds))
                continue
            drawn = maker.draw(task, _teller(task, send))
            if before is not None:
                before.result()  # one block is packed while the next is drawn, no more
            before = encoder.submit(_pack, task.start, drawn, send)


def _listen(connection: Connection, inbox: "queue.SimpleQueue[Any]") -> None:
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)  # whoever asked is gone, killed perhaps: what is being drawn is for nobody
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # a worker that hears nothing would be waited for forever


def _pack(start: int, drawn: list[Any], send: Callable[[object], None]) -> None:
    send(Made(start, encode_all(drawn)))


def _teller(block: Block, send: Callable[[object], None]) -> Callable[[float], None]:
    told = [0.0]

    def tell(share: float) -> None:
        if share - told[0] >= SMALLEST_SHARE:
            told[0] = share
            send(Share(block.start, share))

    return tell


def measure(maker: Maker, seconds: float) -> Speed:
    """Speed of the denoiser at the batch of the settings: one call to warm up, then for ``seconds``, one at least."""
    import torch

    from dgkit.diffusion.pipeline import one_hot

    pipeline, batch = maker.pipeline, maker.config.batch
    pixels, tile = pipeline.tile * pipeline.vae_factor, pipeline.tile
    with torch.inference_mode():
        text = pipeline.encode_text([""]).expand(batch, -1, -1)
        labels = torch.zeros(1, pixels, pixels, dtype=torch.uint8, device=pipeline.device)
        condition = pipeline.condition(one_hot(labels)).expand(batch, -1, -1, -1).contiguous()
        latents = torch.zeros(batch, pipeline.latent_channels, tile, tile, device=pipeline.device)
        timestep = torch.full((batch,), 500, dtype=torch.int64, device=pipeline.device)
        calls, started = -1, time.perf_counter()
        while calls < 1 or time.perf_counter() - started < seconds:
            pipeline.denoise(latents, timestep, text.contiguous(), condition)
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
    # Under the name that the other side knows: classes of __main__ could not be read there.
    from dgkit.generation.worker import main as serve

    serve(int(sys.argv[1]))
