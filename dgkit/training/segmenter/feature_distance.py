"""ImageNet feature distance: an encoder that learns streets keeps what ImageNet taught it of things.

Source: Hoyer et al., DAFormer (CVPR 2022), section 3.3, and the released code's mmseg/models/uda/dacs.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def agreeing_cells(label: Tensor, size: tuple[int, int], classes: Sequence[int], min_ratio: float) -> Tensor:
    """Where one of ``classes`` fills at least ``min_ratio`` (more than half) of a cell: bool [N,h,w], ``size`` (h, w).

    ``label`` is an integer [N,H,W] of train ids; ignored pixels count as another class. Cells are those of adaptive
    pooling, that is squares of H / h pixels where h divides H.
    """
    wanted = torch.tensor(classes, device=label.device).view(1, -1, 1, 1)
    share = functional.adaptive_avg_pool2d((label[:, None] == wanted).float(), size)
    return (share >= min_ratio).any(1)


def feature_distance(features: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions in ``mask`` [N,h,w] of the L2 norm of ``features`` - ``targets``, both [N,C,h,w].

    0 where the mask is empty.
    """
    apart = torch.linalg.vector_norm(features.float() - targets.float(), dim=1)
    return (apart * mask).sum() / mask.sum().clamp(min=1)
