"""The argmax of resized logits equals that of PyTorch at any size."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from dgkit.segmenters.upsampled_argmax import upsampled_argmax


def smooth(height: int, width: int) -> torch.Tensor:
    """Return float32 [19,h,w] with regions of every class."""
    coarse = torch.randn(1, 19, 5, 7, generator=torch.Generator().manual_seed(3))
    fine = torch.randn(19, height, width, generator=torch.Generator().manual_seed(4))
    return functional.interpolate(coarse, size=(height, width), mode="bicubic")[0] + 0.05 * fine


@pytest.mark.parametrize("size", [(64, 96), (128, 192), (101, 77), (30, 50)])
def test_equal_to_torch(size: tuple[int, int]) -> None:
    logits = smooth(64, 96)
    before = logits.clone()
    found = upsampled_argmax(logits, size)
    wanted = functional.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)
    assert found.dtype == torch.uint8 and found.shape == size and len(found.unique()) == 19
    assert (found == wanted).double().mean() > 0.9995  # rounding decides between nearly equal logits
    assert torch.equal(logits, before)


def test_ties_and_non_contiguous_logits() -> None:
    logits = torch.zeros(19, 8, 8)
    logits[3, :4] = logits[7, :4] = 1
    assert np.array_equal(upsampled_argmax(logits, (8, 8))[:, 0].numpy(), [3] * 4 + [0] * 4)
    wide = smooth(64, 96)
    part = wide[:, 10:40, 5:25]  # not contiguous
    assert torch.equal(upsampled_argmax(part, (30, 20)).long(), part.argmax(0))
