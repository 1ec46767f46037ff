"""The way of the images through a run: jobs are read ahead, blocks are drawn by a pool, files are written behind.

Every queue is bounded, so that memory does not grow with the number of images, and the networks wait neither for a PNG
file to be read nor for one to be packed or written.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from typing import Protocol

from dgkit.generation.blocks import Block, Maker, Scene, Task, encode_all, make_block
from dgkit.generation.guards import uninterrupted
from dgkit.generation.jobs import JobPlan

READERS = 4  # threads that make jobs; most of a job is unpacking one PNG file

# (block, share of it that is drawn, 0 to 1)
Tell = Callable[[Block, float], None]
Packed = Callable[[], list[Scene]]


class Pool(Protocol):
    """Whatever draws blocks. ``capacity``: blocks it holds before one has to be fetched."""

    capacity: int

    def submit(self, block: Block) -> None:
        """Take a block."""

    def fetch(self) -> tuple[Block, Packed]:
        """Wait for the next block that is done, in any order, and how to come by its files."""


class Tally:
    """Images done, in fractions, over all blocks under way; ``report(done, total)`` never hears a smaller number."""

    def __init__(self, done: int, total: int, report: Callable[[float, float], None]) -> None:
        self.done, self.total, self.report = done, total, report
        self._shares: dict[int, float] = {}
        self._told = float(done)

    def tell(self, block: Block, share: float) -> None:
        self._shares[block.start] = len(block.wanted) * min(share, 1.0)
        self._say()

    def finish(self, block: Block) -> None:
        self._shares.pop(block.start, None)
        self.done += len(block.wanted)
        self._say()

    def _say(self) -> None:
        self._told = max(self._told, self.done + sum(self._shares.values()))
        self.report(min(self._told, self.total), self.total)


class Alone:
    """The pool of one: this process draws, and its writing thread packs the files."""

    capacity = 1

    def __init__(self, maker: Maker, tell: Tell) -> None:
        self._maker, self._tell = maker, tell
        self._done: deque[tuple[Block, Packed]] = deque()

    def submit(self, block: Block) -> None:
        drawn = self._maker.draw(block, lambda share: self._tell(block, share))
        self._done.append((block, lambda: encode_all(drawn)))

    def fetch(self) -> tuple[Block, Packed]:
        return self._done.popleft()


def fill(
    add: Callable[[Scene], object], plan: JobPlan, todo: Iterable[Task], pool: Pool, finish: Callable[[Block], None]
) -> None:
    """Draw every block of ``todo`` and ``add`` its images to the folder; ``finish`` is called once a block is drawn.

    What was fetched is added even where the run ends early. Raises what making a job, drawing or adding raises.
    """
    under_way = 0
    with closing(_ahead(plan, todo, pool.capacity + 1)) as ahead, _behind(add, pool.capacity + 1) as write:
        more = True
        while more or under_way:
            while more and under_way < pool.capacity:
                block = next(ahead, None)
                more = block is not None
                if block is not None:
                    pool.submit(block)
                    under_way += 1
            if under_way:
                block, packed = pool.fetch()
                under_way -= 1
                finish(block)
                write(packed)


def _ahead(plan: JobPlan, todo: Iterable[Task], depth: int) -> Generator[Block, None, None]:
    """The blocks of ``todo`` in order, up to ``depth`` of them made before they are asked for, in several threads."""
    source = iter(todo)
    with ThreadPoolExecutor(READERS, "dgkit-jobs") as threads:
        waiting = deque(threads.submit(make_block, plan, task) for task in islice(source, depth))
        try:
            while waiting:
                block = waiting.popleft().result()
                waiting.extend(threads.submit(make_block, plan, task) for task in islice(source, 1))
                yield block
        finally:
            threads.shutdown(cancel_futures=True)


@contextmanager
def _behind(add: Callable[[Scene], object], depth: int) -> Iterator[Callable[[Packed], None]]:
    """A function that hands the files of a block to a thread, and waits while ``depth`` blocks are in its queue."""
    queue: deque[Future[None]] = deque()

    def add_all(packed: Packed) -> None:
        for scene in packed():
            add(scene)

    with ThreadPoolExecutor(1, "dgkit-write") as thread:

        def write(packed: Packed) -> None:
            queue.append(thread.submit(add_all, packed))
            while len(queue) > depth or (queue and queue[0].done()):
                queue.popleft().result()

        try:
            yield write
        except BaseException:
            with uninterrupted():
                thread.shutdown()  # an error of the disk would have been raised by write
            raise
        while queue:
            queue.popleft().result()
