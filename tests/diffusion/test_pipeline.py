"""The one-hot condition of a label."""

from __future__ import annotations

import numpy as np
import torch

from dgkit.diffusion.pipeline import one_hot


def test_one_hot_has_ignore_as_channel_19() -> None:
    label = np.random.default_rng(0).choice([*range(19), 255], (9, 11)).astype(np.uint8)
    given = torch.from_numpy(label.copy())
    found = one_hot(given[None])[0]
    assert found.dtype == torch.float32 and set(found.unique().tolist()) == {0, 1}
    assert torch.equal(found.sum(0), torch.ones(9, 11))
    assert np.array_equal(found.argmax(0).numpy(), np.where(label == 255, 19, label))  # channel 19 is ignore
    assert np.array_equal(given.numpy(), label)
