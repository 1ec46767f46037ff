"""Progress over blocks in flight, and what a stop keeps of them."""

import gc
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any

import pytest

from dgkit.generation import flow
from dgkit.generation.blocks import Block
from dgkit.generation.flow import ImageProgress, fill
from tests.generation.fakes import make_block


def test_progress_never_decreases() -> None:
    reported: list[float] = []
    images = ImageProgress(2, 6, lambda done, total: reported.append(done))
    images.update(make_block(2, 2, 3), 0.5)
    images.update(make_block(4, 4, 5), 0.75)
    images.update(make_block(2, 2, 3), 0.0)  # its worker died
    images.finish(make_block(4, 4, 5))
    images.finish(make_block(2, 2, 3))
    assert reported == [3.0, 4.5, 4.5, 4.5, 6.0]


def test_unfinished_images_are_those_of_begun_blocks() -> None:
    images = ImageProgress(0, 6, lambda done, total: None)
    images.update(make_block(0, 0, 1), 0.5)
    images.update(make_block(2, 2, 3, 4), 0.25)
    assert images.unfinished == 5
    images.finish(make_block(0, 0, 1))
    assert images.unfinished == 3


class InterruptedPool:
    """A pool of two blocks: the second fetch is interrupted while the block is finished."""

    capacity = 2

    def __init__(self) -> None:
        self.blocks: deque[Block] = deque()
        self.fetched = 0

    def submit(self, block: Block) -> None:
        self.blocks.append(block)

    def fetch(self) -> tuple[Block, Iterable[Any]]:
        if self.fetched:
            raise KeyboardInterrupt
        self.fetched += 1
        return self.take()

    def take(self) -> tuple[Block, Iterable[Any]]:
        block = self.blocks.popleft()
        return block, [f"image {block.start}"]

    def finished(self) -> Iterable[tuple[Block, Iterable[Any]]]:
        yield self.take()
        raise OSError("the other worker is gone")


def test_a_stop_writes_what_the_pool_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "make_block", lambda plan, numbers, wanted: make_block(wanted[0]))
    added: list[Any] = []
    done: list[int] = []
    missing = [(range(number, number + 1), (number,)) for number in range(5)]
    with pytest.raises(KeyboardInterrupt):
        fill(added.append, None, missing, InterruptedPool(), lambda block: done.append(block.start))  # type: ignore[arg-type]
    assert added == ["image 0", "image 1"] and done == [0, 1]


class Picture:
    """An image that can be counted while it is in memory."""


class PicturePool:
    """A pool whose blocks have an image each; ``most`` is the largest number of them in memory at once."""

    capacity = 2

    def __init__(self) -> None:
        self.blocks: deque[Block] = deque()
        self.pictures: weakref.WeakSet[Picture] = weakref.WeakSet()
        self.most = 0

    def submit(self, block: Block) -> None:
        self.blocks.append(block)

    def fetch(self) -> tuple[Block, Iterable[Any]]:
        pictures = [Picture()]
        self.pictures.add(pictures[0])
        self.most = max(self.most, len(self.pictures))
        return self.blocks.popleft(), pictures

    def finished(self) -> Iterable[tuple[Block, Iterable[Any]]]:
        return ()


def test_images_in_memory_do_not_grow_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resident memory of 1,500 images is measured by tests/benchmarks/studies/test_soak.py."""
    made: weakref.WeakSet[Block] = weakref.WeakSet()
    most_blocks = 0

    def make(plan: object, numbers: range, wanted: tuple[int, ...]) -> Block:
        nonlocal most_blocks
        block = make_block(wanted[0])
        made.add(block)
        most_blocks = max(most_blocks, len(made))
        return block

    monkeypatch.setattr(flow, "make_block", make)
    pool, written = PicturePool(), []
    missing = ((range(number, number + 1), (number,)) for number in range(200))
    gc.disable()  # references that only a collection would find count
    try:
        fill(lambda image: written.append(type(image)), None, missing, pool, lambda block: None)  # type: ignore[arg-type]
    finally:
        gc.enable()
    assert len(written) == 200
    assert pool.most <= 3 * pool.capacity + 2 and most_blocks <= 4 * pool.capacity + 4
