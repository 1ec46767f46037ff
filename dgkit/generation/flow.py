"""How images move through a run: threads prepare jobs ahead, a pool generates blocks, a thread writes the files.

Every queue is bounded, so memory does not grow with the number of images. The networks never wait for a PNG file to be
decoded, encoded or written.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import islice
from typing import Protocol

from dgkit.generation.blocks import Block, make_block
from dgkit.generation.encoding import EncodedImage, encode
from dgkit.generation.guards import uninterrupted
from dgkit.generation.jobs import JobPlan
from dgkit.generation.scene_generator import SceneGenerator
from dgkit.progress import Advance

READERS = 4  # threads that prepare jobs; most of the work is decoding one PNG file per job


class Pool(Protocol):
    """Anything that generates blocks. ``capacity`` is the number of blocks it takes before one must be fetched."""

    capacity: int

    def submit(self, block: Block) -> None:
        """Take a block."""

    def fetch(self) -> tuple[Block, Iterable[EncodedImage]]:
        """Wait for the next finished block, in any order. Its files may be encoded while they are iterated."""

    def finished(self) -> Iterable[tuple[Block, Iterable[EncodedImage]]]:
        """Return the blocks that :meth:`fetch` would return at once: what a run that stops need not drop."""


class ImageProgress:
    """Progress in images, in fractions, over all blocks in flight; ``advance(done, total)`` never gets less."""

    def __init__(self, done: int, total: int, advance: Advance) -> None:
        self._done, self._total, self._advance = done, total, advance
        self._partial: dict[int, float] = {}
        self._begun: dict[int, int] = {}  # images of each block in _partial
        self._reported = float(done)

    def update(self, block: Block, share: float) -> None:
        """Report that ``share``, 0 to 1, of a block is generated; a restarted block may report less than before."""
        self._partial[block.start] = len(block.wanted) * min(share, 1.0)
        self._begun[block.start] = len(block.wanted)
        self._report()

    def finish(self, block: Block) -> None:
        """Report that all images of a block are generated."""
        self._partial.pop(block.start, None)
        self._begun.pop(block.start, None)
        self._done += len(block.wanted)
        self._report()

    @property
    def unfinished(self) -> int:
        """Number of images in the blocks that are begun and not finished."""
        return sum(self._begun.values())

    def _report(self) -> None:
        self._reported = max(self._reported, self._done + sum(self._partial.values()))
        self._advance(min(self._reported, self._total), self._total)


class InProcessPool:
    """A pool without other processes: the caller's thread generates, the writing thread encodes.

    ``update(block, share)`` reports the finished share of a block.
    """

    capacity = 1

    def __init__(self, generator: SceneGenerator, update: Callable[[Block, float], None]) -> None:
        self._generator, self._update = generator, update
        self._done: deque[tuple[Block, Iterable[EncodedImage]]] = deque()

    def submit(self, block: Block) -> None:
        """Generate the images of a block."""
        images = self._generator.generate(block, lambda share: self._update(block, share))
        self._done.append((block, map(encode, images)))

    def fetch(self) -> tuple[Block, Iterable[EncodedImage]]:
        """Return the block that was submitted last; its files are encoded while they are iterated."""
        return self._done.popleft()

    def finished(self) -> Iterable[tuple[Block, Iterable[EncodedImage]]]:
        """Return a block that was generated and not fetched."""
        while self._done:
            yield self._done.popleft()


def fill(
    add: Callable[[EncodedImage], object],
    plan: JobPlan,
    missing: Iterable[tuple[range, tuple[int, ...]]],
    pool: Pool,
    finish: Callable[[Block], None],
) -> None:
    """Generate the ``missing`` blocks, pairs of (job numbers, wanted numbers), and ``add`` their images to the folder.

    ``finish`` is called once for each generated block. Blocks fetched from ``pool`` are added even if the run ends
    early, and on Ctrl-C those that the pool has finished. Raises what preparing a job, generating or adding raises.
    """
    in_flight = 0

    def keep(block: Block, images: Iterable[EncodedImage]) -> None:
        finish(block)
        write(images)

    with closing(_prepare(plan, missing, pool.capacity + 1)) as blocks, _writer(add, pool.capacity + 1) as write:
        more = True
        try:
            while more or in_flight:
                while more and in_flight < pool.capacity:
                    block = next(blocks, None)
                    more = block is not None
                    if block is not None:
                        pool.submit(block)
                        in_flight += 1
                if in_flight:
                    keep(*pool.fetch())
                    in_flight -= 1
        except KeyboardInterrupt:
            with uninterrupted(), suppress(Exception):  # an error here is no news to who stops the run
                for found in pool.finished():
                    keep(*found)
            raise


def _prepare(
    plan: JobPlan, missing: Iterable[tuple[range, tuple[int, ...]]], depth: int
) -> Generator[Block, None, None]:
    """Yield the blocks in order, up to ``depth`` of them prepared ahead in several threads."""
    source = iter(missing)
    with ThreadPoolExecutor(READERS, "dgkit-jobs") as threads:
        waiting = deque(threads.submit(make_block, plan, *numbers) for numbers in islice(source, depth))
        try:
            while waiting:
                block = waiting.popleft().result()
                waiting.extend(threads.submit(make_block, plan, *numbers) for numbers in islice(source, 1))
                yield block
        finally:
            threads.shutdown(cancel_futures=True)


@contextmanager
def _writer(add: Callable[[EncodedImage], object], depth: int) -> Iterator[Callable[[Iterable[EncodedImage]], None]]:
    """Yield a function that hands a block's files to a thread and waits while ``depth`` blocks are in its queue."""
    queue: deque[Future[None]] = deque()

    def add_all(images: Iterable[EncodedImage]) -> None:
        for image in images:
            add(image)

    with ThreadPoolExecutor(1, "dgkit-write") as thread:

        def write(images: Iterable[EncodedImage]) -> None:
            queue.append(thread.submit(add_all, images))
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
