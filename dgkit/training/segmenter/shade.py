"""SHADE: features in other styles of the source beside those of the pictures, and one prediction asked of both.

A style is the mean and the standard deviation of each channel of an encoder's first features. Source: Zhao et al.,
Style-Hallucinated Dual Consistency Learning (ECCV 2022), style hallucination and style consistency.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-7  # added to a standard deviation before dividing by it. Source: the released code


class Styles(NamedTuple):
    """``mean`` and ``std`` of each channel, both float32 [K,C]."""

    mean: Tensor
    std: Tensor


def style_of(features: Tensor) -> Styles:
    """The styles [N,C] of features [N,C,P]; the deviation is that of a sample (divided by P - 1)."""
    return Styles(features.mean(2), features.std(2))


def restyle(features: Tensor, styles: Styles) -> Tensor:
    """Features [N,C,P] with ``styles`` [N,C] in place of their own, which count as constants in the gradient."""
    mean, std = (value.detach()[..., None] for value in style_of(features))
    return (features - mean) / (std + EPSILON) * styles.std[..., None] + styles.mean[..., None]


def mixtures(bases: Styles, count: int, concentration: float) -> Styles:
    """``count`` convex combinations [count,C] of ``bases`` [K,C], weights from a symmetric Dirichlet distribution."""
    parameters = torch.full((len(bases.mean),), concentration, device=bases.mean.device)
    weights = torch.distributions.Dirichlet(parameters).sample((count,))
    return Styles(weights @ bases.mean, weights @ bases.std)


def farthest_points(points: Tensor, count: int, first: int) -> Tensor:
    """Indices [count] of ``points`` [N,D]: ``first``, then ever the one farthest from all that are chosen already.

    Distances are Euclidean; the lowest index wins a tie. Source: Qi et al., PointNet++ (NeurIPS 2017).
    """
    chosen = [first]
    distance = torch.full((len(points),), math.inf, device=points.device)
    while len(chosen) < count:
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen, device=points.device)


def base_styles(styles: Styles, count: int, first: int) -> Styles:
    """``count`` of ``styles`` [N,C], mean and deviation joined as one point each, by :func:`farthest_points`."""
    chosen = farthest_points(torch.cat(styles, dim=1), count, first)
    return Styles(styles.mean[chosen], styles.std[chosen])


def style_consistency(logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence, in nats, of the two halves of a batch of logits [2N,C,h,w], averaged over positions.

    That is the mean of the two Kullback-Leibler divergences to the mixture of both distributions; 0 to log 2.
    """
    one, two = functional.log_softmax(logits.float(), dim=1).chunk(2)
    mixture = torch.logaddexp(one, two) - math.log(2)
    divergences = one.exp() * (one - mixture) + two.exp() * (two - mixture)
    return divergences.sum(1).mean() / 2


def first_features(backbone: Any, images: Tensor) -> Tensor:
    """Features [N,C,P] whose style counts: of MixVisionTransformer's first stage, or of ResNet's stem with its pooling.

    ``images`` are normalised, [N,3,H,W]. Source for MiT: the code of DAFormer's and HRDA's generalisation; for ResNet:
    SHADE's own.
    """
    if not _is_mit(backbone):
        stem = backbone.stem(images) if backbone.deep_stem else backbone.relu(backbone.norm1(backbone.conv1(images)))
        return backbone.maxpool(stem).flatten(2)
    embedding, blocks, norm = backbone.layers[0]
    tokens, size = embedding(images)
    for block in blocks:
        tokens = block(tokens, size)
    return norm(tokens).transpose(1, 2)


@contextlib.contextmanager
def hallucinating(backbone: Any, bases: Styles, concentration: float) -> Iterator[None]:
    """Within, the backbone's features of N pictures are [2N,...]: their own, then copies restyled by ``mixtures``."""

    def doubled(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        flat = output.flatten(2) if output.ndim == 4 else output.transpose(1, 2)  # ResNet: NCHW; MiT: N,P,C
        with torch.autocast(output.device.type, enabled=False):  # statistics in fp32 whatever the precision
            copy = restyle(flat.float(), mixtures(bases, len(flat), concentration))
        copy = copy.view_as(output) if output.ndim == 4 else copy.transpose(1, 2)
        return torch.cat([output, copy.to(output.dtype)])

    last = backbone.layers[0][2] if _is_mit(backbone) else backbone.maxpool
    handle = last.register_forward_hook(doubled)
    try:
        yield
    finally:
        handle.remove()


def _is_mit(backbone: Any) -> bool:
    return hasattr(backbone, "layers")
