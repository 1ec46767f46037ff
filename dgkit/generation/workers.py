"""Worker processes on this machine: started, fed with blocks, and started again where one dies."""

import subprocess
import sys
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from dgkit.errors import EngineError
from dgkit.generation.blocks import Block, Notify
from dgkit.generation.flow import Packed, Tell
from dgkit.generation.guards import uninterrupted
from dgkit.generation.worker import Failed, Made, Ready, Setup, Share
from dgkit.processes import child_environment, describe_exit, kill_group

WORKER = "dgkit.generation.worker"
QUEUE = 2  # blocks a worker has at once: one that it draws, and one that it need not wait for
MAX_DEATHS = 3  # of workers at one block, or before one was ready


@dataclass
class Worker:
    """One process; ``tasks`` are its blocks, the first of them being drawn."""

    number: int
    setup: Setup
    connection: Connection
    process: subprocess.Popen[bytes]
    tasks: deque[Block] = field(default_factory=deque)
    ready: bool = False
    deaths: int = 0


class WorkerPool:
    """Processes that draw, one for each setup; a :class:`~dgkit.generation.flow.Pool` inside ``with``.

    A worker that dies is started again and gets its blocks once more; ``notify`` is told. EngineError where the same
    block kills three of them, or where one dies three times before it is ready. An error that a worker raises is raised
    here.
    """

    def __init__(self, setups: Sequence[Setup], tell: Tell, notify: Notify | None = None) -> None:
        self.capacity = QUEUE * len(setups)
        self._setups, self._tell, self._notify = setups, tell, notify or (lambda message: None)
        self._workers: list[Worker] = []
        self._deaths: Counter[int] = Counter()  # by the number of the block that was being drawn

    def __enter__(self) -> "WorkerPool":
        try:
            for number, setup in enumerate(self._setups):
                self._workers.append(Worker(number, setup, *start(setup)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with uninterrupted():
            for worker in self._workers:
                stop(worker.process, worker.connection)

    def submit(self, block: Block) -> None:
        worker = min(self._workers, key=lambda worker: len(worker.tasks))
        worker.tasks.append(block)
        self._send(worker, block)

    def fetch(self) -> tuple[Block, Packed]:
        while True:
            for connection in wait([worker.connection for worker in self._workers]):
                worker = next(worker for worker in self._workers if worker.connection is connection)
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    self._restart(worker)
                    continue
                made = self._hear(worker, message)
                if made is not None:
                    return made

    def _hear(self, worker: Worker, message: Any) -> tuple[Block, Packed] | None:
        if isinstance(message, Failed):
            raise_failure(message)
        if isinstance(message, Ready):
            worker.ready, worker.deaths = True, 0
        elif isinstance(message, Share):
            block = next((block for block in worker.tasks if block.start == message.start), None)
            if block is not None:
                self._tell(block, message.share)
        elif isinstance(message, Made):
            block = next(block for block in worker.tasks if block.start == message.start)
            worker.tasks.remove(block)
            return block, lambda: message.scenes
        return None

    def _restart(self, worker: Worker) -> None:
        stop(worker.process, worker.connection)
        how = describe_exit(worker.process.returncode)
        key = worker.tasks[0].start if worker.ready and worker.tasks else None
        if key is None:
            worker.deaths += 1
        else:
            self._deaths[key] += 1
        if worker.deaths >= MAX_DEATHS or (key is not None and self._deaths[key] >= MAX_DEATHS):
            when = "before it was ready" if key is None else f"at image {key}"
            raise EngineError(
                f"worker {worker.number + 1} {how} {when}, {MAX_DEATHS} times in a row",
                "if memory is short: fewer --workers or a smaller --batch; the same command continues",
            )
        self._notify(f"worker {worker.number + 1} {how}; it is started again and its images are made once more")
        worker.connection, worker.process = start(worker.setup)
        worker.ready = False
        for block in worker.tasks:
            self._send(worker, block)

    def _send(self, worker: Worker, block: Block) -> None:
        with suppress(OSError):  # a dead worker: fetch finds the end of its connection and sends the block again
            worker.connection.send(block)


def start(setup: Setup) -> tuple[Connection, subprocess.Popen[bytes]]:
    """A worker process that got its setup. Ctrl-C in the terminal does not reach it: its master ends it."""
    mine, its = Pipe()
    with its:
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(its.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # stdout carries data, and a worker has none
            env=child_environment({"OMP_NUM_THREADS": str(setup.threads)}),
            pass_fds=[its.fileno()],
            start_new_session=True,
        )
    with suppress(OSError):
        mine.send(setup)
    return mine, process


def stop(process: subprocess.Popen[bytes], connection: Connection) -> None:
    """End a worker and what it started, dead or alive; it owns no file that could be left half-written."""
    connection.close()
    if process.returncode is None:  # else its number may be another process by now
        kill_group(process)


def raise_failure(failed: Failed) -> None:
    """Raise the error of a worker, with its own traceback as a note."""
    failed.error.add_note(f"in a worker process:\n{failed.trace}")
    raise failed.error
