"""Worker processes on this machine: start them, send them blocks, and restart one that dies."""

import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from dgkit.errors import EngineError
from dgkit.generation.blocks import Block
from dgkit.generation.encoding import EncodedImage
from dgkit.generation.guards import uninterrupted
from dgkit.generation.worker import BlockDone, BlockProgress, Failed, Note, Ready, WorkerSetup
from dgkit.processes import child_environment, describe_exit, kill_group
from dgkit.progress import Notify

WORKER = "dgkit.generation.worker"
QUEUE = 2  # blocks a worker holds: the one it generates, and the next, so that it never waits
MAX_DEATHS = 3  # of workers at one block, or of one worker before it is ready
SHORT_OF_MEMORY = "if memory is short, use fewer --workers or a smaller --batch; the same command continues the run"


@dataclass
class WorkerProcess:
    """One process; ``blocks`` are its work, the first of them in progress."""

    number: int
    setup: WorkerSetup
    connection: Connection
    process: subprocess.Popen[bytes]
    blocks: deque[Block] = field(default_factory=deque)
    ready: bool = False
    deaths: int = 0


class WorkerPool:
    """One worker process per setup; a :class:`~dgkit.generation.flow.Pool` inside ``with``.

    ``update(block, share)`` reports the finished share of a block. A worker that dies is restarted and gets its blocks
    again, which is reported to ``notify``. An error in a worker is raised here.

    Raises EngineError if three workers die at the same block, or one dies three times before it is ready.
    """

    def __init__(
        self, setups: Sequence[WorkerSetup], update: Callable[[Block, float], None], notify: Notify | None = None
    ) -> None:
        self.capacity = QUEUE * len(setups)
        self._setups, self._update, self._notify = setups, update, notify or (lambda message: None)
        self._workers: list[WorkerProcess] = []
        self._done: deque[tuple[Block, Iterable[EncodedImage]]] = deque()  # received, not fetched
        self._deaths: Counter[int] = Counter()  # by the start of the block in progress

    def __enter__(self) -> "WorkerPool":
        try:
            for number, setup in enumerate(self._setups):
                self._workers.append(WorkerProcess(number, setup, *start(setup)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with uninterrupted():
            for worker in self._workers:
                stop(worker.process, worker.connection)

    def submit(self, block: Block) -> None:
        """Send a block to the worker with the fewest."""
        worker = min(self._workers, key=lambda worker: len(worker.blocks))
        worker.blocks.append(block)
        self._send(worker, block)

    def fetch(self) -> tuple[Block, Iterable[EncodedImage]]:
        """Wait for the next finished block. Raises the error of a worker, or EngineError if workers keep dying."""
        while not self._done:
            for connection in wait([worker.connection for worker in self._workers]):
                worker = next(worker for worker in self._workers if worker.connection is connection)
                try:
                    self._receive(worker)
                except (EOFError, OSError):
                    self._restart(worker)
        return self._done.popleft()

    def finished(self) -> Iterable[tuple[Block, Iterable[EncodedImage]]]:
        """Return the blocks that workers have sent and nobody has fetched."""
        for worker in self._workers:
            with suppress(EOFError, OSError):
                while worker.connection.poll():
                    self._receive(worker)
        while self._done:
            yield self._done.popleft()

    def _receive(self, worker: WorkerProcess) -> None:
        with uninterrupted():  # a message is read as a whole, and a finished block is not lost
            self._handle(worker, worker.connection.recv())

    def _handle(self, worker: WorkerProcess, message: Any) -> None:
        if isinstance(message, Failed):
            raise_failure(message)
        if isinstance(message, Ready):
            worker.ready, worker.deaths = True, 0
        elif isinstance(message, Note):
            self._notify(f"worker {worker.number + 1}: {message.text}")
        elif isinstance(message, BlockProgress):
            block = next((block for block in worker.blocks if block.start == message.start), None)
            if block is not None:
                self._update(block, message.share)
        elif isinstance(message, BlockDone):
            block = next(block for block in worker.blocks if block.start == message.start)
            worker.blocks.remove(block)
            self._done.append((block, message.images))

    def _restart(self, worker: WorkerProcess) -> None:
        stop(worker.process, worker.connection)
        how = describe_exit(worker.process.returncode)
        key = worker.blocks[0].start if worker.ready and worker.blocks else None
        if key is None:
            worker.deaths += 1
        else:
            self._deaths[key] += 1
        if worker.deaths >= MAX_DEATHS or (key is not None and self._deaths[key] >= MAX_DEATHS):
            when = "before it was ready" if key is None else f"at image {key}"
            raise EngineError(f"worker {worker.number + 1} {how} {when}, {MAX_DEATHS} times in a row", SHORT_OF_MEMORY)
        self._notify(f"worker {worker.number + 1} {how}; restarting it, its images are generated again")
        worker.connection, worker.process = start(worker.setup)
        worker.ready = False
        for block in worker.blocks:
            self._send(worker, block)

    def _send(self, worker: WorkerProcess, block: Block) -> None:
        with suppress(OSError):  # the worker is dead: fetch restarts it and sends the block again
            worker.connection.send(block)


def start(setup: WorkerSetup) -> tuple[Connection, subprocess.Popen[bytes]]:
    """Start a worker process and send its setup. Ctrl-C in the terminal does not reach it: its parent ends it."""
    own, remote = Pipe()
    with remote:
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(remote.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # stdout is for data, and a worker prints none
            env=child_environment({"OMP_NUM_THREADS": str(setup.threads)}),
            pass_fds=[remote.fileno()],
            start_new_session=True,
        )
    with suppress(OSError):
        own.send(setup)
    return own, process


def stop(process: subprocess.Popen[bytes], connection: Connection) -> None:
    """Kill a worker and the processes it started, if it still runs; it owns no file that could be left incomplete."""
    connection.close()
    if process.returncode is None:  # otherwise its process id may have been reused
        kill_group(process)


def raise_failure(failed: Failed) -> None:
    """Raise the error of a worker, with the worker's traceback as a note."""
    failed.error.add_note(f"in a worker process:\n{failed.trace}")
    raise failed.error
