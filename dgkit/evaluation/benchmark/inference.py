"""Predict label maps: windows of several images share one call of the network."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from dgkit.evaluation.benchmark.eval_sets import EvalSample
from dgkit.evaluation.benchmark.protocols import Protocol, Window, windows
from dgkit.segmenters.base import Segmenter
from dgkit.segmenters.upsampled_argmax import upsampled_argmax

Observe = Callable[[EvalSample, Sequence[Tensor], Tensor], None]
"""Called with each sample, the averaged logits [K,h,w] of its views, and its prediction, uint8 [H,W]."""

S = TypeVar("S")
T = TypeVar("T")


class _PendingImage:
    """One image in progress. ``views``: the image and, for test-time augmentation, its mirror image.

    ``sums``: of each view, the sum of the logits of its windows so far.
    """

    def __init__(self, sample: EvalSample, protocol: Protocol, tta: bool) -> None:
        self.sample = sample
        image = torch.from_numpy(sample.image).permute(2, 0, 1)
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

    @torch.inference_mode()
    def label(self, observe: Observe | None = None) -> Tensor:
        """Return uint8 [H,W]: index of the winning channel at the size of the label map."""
        maps = [self._mean(total) for total in self.sums if total is not None]
        found = self._winners(maps)
        if observe is not None:
            observe(self.sample, maps, found)
        return found

    def _winners(self, maps: Sequence[Tensor]) -> Tensor:
        size = self.sample.label.shape
        if len(maps) == 1:
            return upsampled_argmax(maps[0], size)  # softmax does not change the order
        one, two = (
            functional.interpolate(logits[None], size=tuple(size), mode="bilinear", align_corners=False)
            for logits in maps
        )
        return one.softmax(1).add_(two.softmax(1).flip(-1))[0].argmax(0).to(torch.uint8)

    def _mean(self, total: Tensor) -> Tensor:
        """Return float32 [K,h,w]: the logits, averaged where windows overlap."""
        if len(self.places) > 1:
            count = total.new_zeros(total.shape[1:])
            for top, bottom, left, right in self.places:
                count[top:bottom, left:right] += 1
            total /= count
        return total


@dataclass(frozen=True)
class _PendingWindow:
    image: _PendingImage
    view: int
    place: Window

    def pixels(self) -> Tensor:
        top, bottom, left, right = self.place
        return self.image.views[self.view][:, top:bottom, left:right]


@torch.inference_mode()
def predict(
    samples: Iterable[EvalSample],
    segmenter: Segmenter,
    protocol: Protocol,
    *,
    batch: int = 4,
    tta: bool = False,
    observe: Observe | None = None,
) -> Iterator[tuple[EvalSample, Callable[[], Tensor]]]:
    """Yield each sample with a call that returns its prediction, uint8 [H,W] channel indices on the segmenter's device.

    As in mmsegmentation, logits of overlapping windows are averaged and resized bilinearly to the size of the label
    map, and the largest wins. ``tta`` averages the probabilities of the image and its mirror image. Windows of equal
    size share calls of ``batch``, whichever image they belong to; samples are yielded when complete, nearly in order,
    and only few are held at once.

    Another thread may make the call, so that the network works on the next images meanwhile. It calls ``observe``
    before it returns.
    """
    queues: dict[tuple[int, int], list[_PendingWindow]] = {}
    pending: list[_PendingImage] = []
    for sample in samples:
        image = _PendingImage(sample, protocol, tta)
        pending.append(image)
        for view in range(len(image.views)):
            for place in image.places:
                size = (place[1] - place[0], place[3] - place[2])
                queues.setdefault(size, []).append(_PendingWindow(image, view, place))
        for queue in queues.values():
            while len(queue) >= batch:
                _run(segmenter, queue, batch)
        yield from _done(pending, observe)
        while len(pending) > 2 + batch // image.count:  # images of rare sizes would stay in memory until the end
            _run(segmenter, _oldest(queues, pending), batch)
            yield from _done(pending, observe)
    for queue in queues.values():
        while queue:
            _run(segmenter, queue, batch)
    yield from _done(pending, observe)


def _oldest(
    queues: dict[tuple[int, int], list[_PendingWindow]], pending: Sequence[_PendingImage]
) -> list[_PendingWindow]:
    return next(queue for queue in queues.values() if any(window.image is pending[0] for window in queue))


def _run(segmenter: Segmenter, queue: list[_PendingWindow], batch: int) -> None:
    """Run the first ``batch`` of ``queue`` in one call and remove them."""
    taken = queue[:batch]
    del queue[:batch]
    found = segmenter.logits(torch.stack([window.pixels() for window in taken]))
    segmenter.check_finite(found, [str(window.image.sample.files.image) for window in taken])
    for window, logits in zip(taken, found, strict=True):
        window.image.add(window.view, window.place, logits)


def _done(pending: list[_PendingImage], observe: Observe | None) -> Iterator[tuple[EvalSample, Callable[[], Tensor]]]:
    ready = [image for image in pending if not image.left]
    pending[:] = [image for image in pending if image.left]
    for image in ready:
        yield image.sample, partial(image.label, observe)


def map_ahead(function: Callable[[S], T], arguments: Iterable[S], workers: int) -> Iterator[T]:
    """Yield ``map(function, arguments)``, in order, computed by threads up to two results per thread ahead."""
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
