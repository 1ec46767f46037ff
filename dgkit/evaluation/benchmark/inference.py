"""Pictures to predicted label maps: windows of several pictures fill one call of the network."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from dgkit.evaluation.benchmark.protocols import Protocol, Window, windows
from dgkit.evaluation.benchmark.sets import Item
from dgkit.segmenters.base import Segmenter
from dgkit.segmenters.upsampled_argmax import upsampled_argmax

S = TypeVar("S")
T = TypeVar("T")


class _Work:
    """One picture under way. ``views``: the picture and, for test-time augmentation, its mirror image, with the sum of
    the logits of their windows.
    """

    def __init__(self, item: Item, protocol: Protocol, tta: bool) -> None:
        self.item = item
        image = torch.from_numpy(item.image).permute(2, 0, 1)
        self.views = [image, image.flip(-1)] if tta else [image]
        self.places = windows(image.shape[1], image.shape[2], protocol.crop, protocol.stride)
        self.count = self.left = len(self.views) * len(self.places)
        self.sums: list[Tensor | None] = [None] * len(self.views)

    def add(self, view: int, place: Window, logits: Tensor) -> None:
        self.left -= 1
        if len(self.places) == 1:
            self.sums[view] = logits
            return
        total = self.sums[view]
        if total is None:
            total = self.sums[view] = logits.new_zeros((len(logits), *self.views[view].shape[1:]))
        top, bottom, left, right = place
        total[:, top:bottom, left:right] += logits

    def label(self) -> Tensor:
        """uint8 [H,W]: index of the winning channel at the size of the label map."""
        size = self.item.label.shape
        maps = [self._mean(total) for total in self.sums if total is not None]
        if len(maps) == 1:
            return upsampled_argmax(maps[0], size)  # softmax does not change the order
        one, two = (
            functional.interpolate(logits[None], size=tuple(size), mode="bilinear", align_corners=False)
            for logits in maps
        )
        return one.softmax(1).add_(two.softmax(1).flip(-1))[0].argmax(0).to(torch.uint8)

    def _mean(self, total: Tensor) -> Tensor:
        """float32 [K,h,w]: the mean over windows of the sums of their logits."""
        if len(self.places) > 1:
            count = total.new_zeros(total.shape[1:])
            for top, bottom, left, right in self.places:
                count[top:bottom, left:right] += 1
            total /= count
        return total


@dataclass(frozen=True)
class _Piece:
    work: _Work
    view: int
    place: Window

    def pixels(self) -> Tensor:
        top, bottom, left, right = self.place
        return self.work.views[self.view][:, top:bottom, left:right]


@torch.inference_mode()
def predict(
    items: Iterable[Item], segmenter: Segmenter, protocol: Protocol, *, batch: int = 4, tta: bool = False
) -> Iterator[tuple[Item, Tensor]]:
    """(item, uint8 [H,W] tensor of channel indices on the segmenter's device) of every item.

    As mmsegmentation does it: logits of overlapping windows are averaged, resized bilinearly to the label map's size,
    the largest wins. ``tta`` averages the probabilities of the picture and its mirror image. Windows of one size of all
    pictures under way share calls of ``batch``; items come out when complete, nearly in order. Few are held at once.
    """
    waiting: dict[tuple[int, int], list[_Piece]] = {}
    under_way: list[_Work] = []
    for item in items:
        work = _Work(item, protocol, tta)
        under_way.append(work)
        for view in range(len(work.views)):
            for place in work.places:
                waiting.setdefault((place[1] - place[0], place[3] - place[2]), []).append(_Piece(work, view, place))
        for pieces in waiting.values():
            while len(pieces) >= batch:
                _run(segmenter, pieces, batch)
        yield from _done(under_way)
        while len(under_way) > 2 + batch // work.count:  # rare sizes would stay in memory until the end
            _run(segmenter, _oldest(waiting, under_way), batch)
            yield from _done(under_way)
    for pieces in waiting.values():
        while pieces:
            _run(segmenter, pieces, batch)
    yield from _done(under_way)


def _oldest(waiting: dict[tuple[int, int], list[_Piece]], under_way: Sequence[_Work]) -> list[_Piece]:
    return next(pieces for pieces in waiting.values() if any(piece.work is under_way[0] for piece in pieces))


def _run(segmenter: Segmenter, pieces: list[_Piece], batch: int) -> None:
    """One call with the first of ``pieces``, which are taken out."""
    taken = pieces[:batch]
    del pieces[:batch]
    found = segmenter.logits(torch.stack([piece.pixels() for piece in taken]))
    for piece, logits in zip(taken, found, strict=True):
        piece.work.add(piece.view, piece.place, logits)


def _done(under_way: list[_Work]) -> Iterator[tuple[Item, Tensor]]:
    ready = [work for work in under_way if not work.left]
    under_way[:] = [work for work in under_way if work.left]
    for work in ready:
        yield work.item, work.label()


def ahead(function: Callable[[S], T], arguments: Iterable[S], workers: int) -> Iterator[T]:
    """``map(function, arguments)`` in threads, in order, at most twice as many results ahead as there are threads."""
    with ThreadPoolExecutor(workers) as pool:
        queue: list[Future[T]] = []
        try:
            for argument in arguments:
                queue.append(pool.submit(function, argument))
                if len(queue) >= 2 * workers:
                    yield queue.pop(0).result()
            while queue:
                yield queue.pop(0).result()
        finally:
            for future in queue:
                future.cancel()
