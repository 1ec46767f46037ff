"""ImageNet feature distance: keeps the encoder's features of things close to those of ImageNet pretraining.

Source: Hoyer et al., DAFormer (CVPR 2022), section 3.3, and the released code's mmseg/models/uda/dacs.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def agreeing_cells(label: Tensor, size: tuple[int, int], classes: Sequence[int], min_ratio: float) -> Tensor:
    """Return bool [N,h,w], ``size`` (h, w): whether one of ``classes`` fills at least ``min_ratio`` (> 0.5) of a cell.

    ``label`` is an integer [N,H,W] of train ids; ignored pixels count as another class. Cells are those of adaptive
    pooling: squares of H / h pixels if h divides H.
    """
    wanted = torch.tensor(classes, device=label.device).view(1, -1, 1, 1)
    share = functional.adaptive_avg_pool2d((label[:, None] == wanted).float(), size)
    return (share >= min_ratio).any(1)


def feature_distance(features: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Return the L2 norm of ``features`` - ``targets``, both [N,C,h,w], averaged over ``mask`` [N,h,w].

    An empty mask gives 0.
    """
    apart = torch.linalg.vector_norm(features.float() - targets.float(), dim=1)
    return (apart * mask).sum() / mask.sum().clamp(min=1)
