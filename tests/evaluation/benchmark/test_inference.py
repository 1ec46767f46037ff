"""Windows of many pictures in one call give what one picture and one window at a time gives."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dgkit.data.datasets import Sample
from dgkit.evaluation.benchmark.inference import ahead, predict
from dgkit.evaluation.benchmark.protocols import Protocol
from dgkit.evaluation.benchmark.sets import Item
from dgkit.segmenters.base import Segmenter

CHANNELS = 5


class Convolution(Segmenter):
    """Random weights; sees the border of its window, so that windows differ where they overlap."""

    def __init__(self) -> None:
        super().__init__(
            Path("net"), "test", np.arange(CHANNELS, dtype=np.uint8), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "cpu"
        )
        self._weights = torch.randn(CHANNELS, 3, 5, 5, generator=torch.Generator().manual_seed(1))
        self.calls: list[tuple[int, ...]] = []

    def facts(self) -> dict[str, object]:
        return {"kind": self.kind}

    def _run(self, values: Tensor) -> Tensor:
        self.calls.append(tuple(values.shape))
        return functional.conv2d(values, self._weights, padding=2)


def make_items(sizes: list[tuple[int, int]], label_factor: int = 2) -> list[Item]:
    rng = np.random.default_rng(7)
    return [
        Item(
            "set",
            Sample(str(number), Path("l"), Path("i"), "train_ids"),
            rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
            np.zeros((label_factor * height, label_factor * width), np.uint8),
        )
        for number, (height, width) in enumerate(sizes)
    ]


def plainly(item: Item, net: Convolution, crop: int, stride: int) -> Tensor:
    """Logits [1,K,H,W] at the label's size: the published procedure, word for word, for one picture."""
    image = torch.from_numpy(item.image).permute(2, 0, 1)[None].float()
    mean, std = 255 * torch.tensor([0.4, 0.5, 0.6]), 255 * torch.tensor([0.2, 0.3, 0.4])
    image = (image - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    height, width = image.shape[-2:]
    total, count = torch.zeros(1, CHANNELS, height, width), torch.zeros(1, 1, height, width)
    for row in range(max(height - crop + stride - 1, 0) // stride + 1):
        for column in range(max(width - crop + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + crop, height), min(column * stride + crop, width)
            top, left = max(bottom - crop, 0), max(right - crop, 0)
            total[:, :, top:bottom, left:right] += net._run(image[:, :, top:bottom, left:right])
            count[:, :, top:bottom, left:right] += 1
    return functional.interpolate(total / count, size=item.label.shape, mode="bilinear", align_corners=False)


SIZES = [(20, 32), (20, 32), (13, 40), (24, 24), (20, 32), (9, 9)]


@pytest.mark.parametrize("batch", [1, 4, 50])
def test_as_one_window_at_a_time(batch: int) -> None:
    net, protocol = Convolution(), Protocol("p", "", (1, 1), 16, 8)
    found = {item.sample.id: label for item, label in predict(make_items(SIZES), net, protocol, batch=batch)}
    assert max(shape[0] for shape in net.calls) <= batch
    assert len(found) == len(SIZES)
    for item in make_items(SIZES):
        expected = plainly(item, net, 16, 8).argmax(1)[0]
        assert found[item.sample.id].dtype == torch.uint8
        # Sums of a batch and of a single picture round differently: two logits may be equal but for that.
        assert (found[item.sample.id] == expected).float().mean() > 0.999


def test_the_mirrored_picture_counts_as_much() -> None:
    net, protocol = Convolution(), Protocol("p", "", (1, 1), 16, 8)
    item = make_items([(20, 30)])[0]
    mirrored = Item("set", item.sample, np.ascontiguousarray(item.image[:, ::-1]), item.label)
    mean = plainly(item, net, 16, 8).softmax(1) + plainly(mirrored, net, 16, 8).softmax(1).flip(-1)
    ((_, found),) = predict([item], net, protocol, tta=True)
    assert (found == mean.argmax(1)[0]).float().mean() > 0.999
    ((_, other),) = predict([item], net, protocol)
    assert (found != other).any()


def test_windows_of_several_pictures_share_calls() -> None:
    net = Convolution()
    list(predict(make_items([(16, 24)] * 6), net, Protocol("p", "", (1, 1), 16, 8), batch=4))  # two windows each
    assert [shape[0] for shape in net.calls] == [4, 4, 4]


def test_pictures_of_all_sizes_do_not_pile_up() -> None:
    taken = 0

    def source() -> Iterator[Item]:
        nonlocal taken
        for item in make_items([(16, 16 + number) for number in range(20)]):
            taken += 1
            yield item

    largest = 0
    for given, _ in enumerate(predict(source(), Convolution(), Protocol("p", "", (1, 1), None, 1), batch=4), 1):
        largest = max(largest, taken - given)
    assert largest <= 2 + 4


def test_reading_ahead_keeps_order_and_errors() -> None:
    started: list[int] = []

    def work(number: int) -> int:
        started.append(number)
        if number == 30:
            raise ValueError("bad")
        return number * number

    found = ahead(work, range(100), 2)
    assert [next(found) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(started) <= 5 + 4
    with pytest.raises(ValueError, match="bad"):
        list(found)
    assert len(started) <= 30 + 4 + 1
