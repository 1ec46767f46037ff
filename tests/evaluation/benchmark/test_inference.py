"""Windows of several images in one call give the same predictions as one window at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dgkit.data.samples import Sample
from dgkit.evaluation.benchmark.eval_sets import EvalSample
from dgkit.evaluation.benchmark.inference import map_ahead, predict
from dgkit.evaluation.benchmark.protocols import Protocol
from dgkit.segmenters.base import Segmenter

CHANNELS = 5


class Convolution(Segmenter):
    """A random convolution that depends on the border of its window, so that overlapping windows differ."""

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


def make_samples(sizes: list[tuple[int, int]], label_factor: int = 2) -> list[EvalSample]:
    rng = np.random.default_rng(7)
    return [
        EvalSample(
            "set",
            Sample(str(number), Path("l"), Path("i"), "train_ids"),
            rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
            np.zeros((label_factor * height, label_factor * width), np.uint8),
        )
        for number, (height, width) in enumerate(sizes)
    ]


def reference_logits(sample: EvalSample, net: Convolution, crop: int, stride: int) -> Tensor:
    """Return logits [1,K,H,W] at the size of the label: the published procedure for one image, window by window."""
    image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].float()
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
    return functional.interpolate(total / count, size=sample.label.shape, mode="bilinear", align_corners=False)


SIZES = [(20, 32), (20, 32), (13, 40), (24, 24), (20, 32), (9, 9)]


@pytest.mark.parametrize("batch", [1, 4, 50])
def test_equal_to_one_window_at_a_time(batch: int) -> None:
    net, protocol = Convolution(), Protocol("p", "", (1, 1), 16, 8)
    found = {sample.files.id: label() for sample, label in predict(make_samples(SIZES), net, protocol, batch=batch)}
    assert max(shape[0] for shape in net.calls) <= batch
    assert len(found) == len(SIZES)
    for sample in make_samples(SIZES):
        expected = reference_logits(sample, net, 16, 8).argmax(1)[0]
        assert found[sample.files.id].dtype == torch.uint8
        # Sums of a batch and of a single image round differently, which decides between nearly equal logits.
        assert (found[sample.files.id] == expected).float().mean() > 0.999


def test_the_mirrored_image_has_equal_weight() -> None:
    net, protocol = Convolution(), Protocol("p", "", (1, 1), 16, 8)
    sample = make_samples([(20, 30)])[0]
    mirrored = EvalSample("set", sample.files, np.ascontiguousarray(sample.image[:, ::-1]), sample.label)
    mean = reference_logits(sample, net, 16, 8).softmax(1) + reference_logits(mirrored, net, 16, 8).softmax(1).flip(-1)
    ((_, found),) = predict([sample], net, protocol, tta=True)
    assert (found() == mean.argmax(1)[0]).float().mean() > 0.999
    ((_, other),) = predict([sample], net, protocol)
    assert (found() != other()).any()


def test_windows_of_several_images_share_calls() -> None:
    net = Convolution()
    list(predict(make_samples([(16, 24)] * 6), net, Protocol("p", "", (1, 1), 16, 8), batch=4))  # two windows each
    assert [shape[0] for shape in net.calls] == [4, 4, 4]


def test_images_of_many_sizes_do_not_accumulate() -> None:
    taken = 0

    def source() -> Iterator[EvalSample]:
        nonlocal taken
        for sample in make_samples([(16, 16 + number) for number in range(20)]):
            taken += 1
            yield sample

    largest = 0
    for given, _ in enumerate(predict(source(), Convolution(), Protocol("p", "", (1, 1), None, 1), batch=4), 1):
        largest = max(largest, taken - given)
    assert largest <= 2 + 4


def test_map_ahead_keeps_order_and_errors() -> None:
    started: list[int] = []

    def work(number: int) -> int:
        started.append(number)
        if number == 30:
            raise ValueError("bad")
        return number * number

    found = map_ahead(work, range(100), 2)
    assert [next(found) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(started) <= 5 + 4
    with pytest.raises(ValueError, match="bad"):
        list(found)
    assert len(started) <= 30 + 4 + 1
