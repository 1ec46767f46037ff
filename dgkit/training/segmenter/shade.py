"""SHADE: each image also passes with restyled features, and both predictions should agree.

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

EPSILON = 1e-7  # added to standard deviations before division. Source: the released code


class Styles(NamedTuple):
    """Styles by ``mean`` and ``std`` of each channel, both float32 [K,C]."""

    mean: Tensor
    std: Tensor


def style_of(features: Tensor) -> Styles:
    """Return the styles [N,C] of features [N,C,P]; the deviation is that of a sample (divided by P - 1)."""
    return Styles(features.mean(2), features.std(2))


def restyle(features: Tensor, styles: Styles) -> Tensor:
    """Return features [N,C,P] with ``styles`` [N,C]; their own statistics are constants in the gradient."""
    mean, std = (value.detach()[..., None] for value in style_of(features))
    return (features - mean) / (std + EPSILON) * styles.std[..., None] + styles.mean[..., None]


def mix_styles(bases: Styles, count: int, concentration: float) -> Styles:
    """Return ``count`` convex combinations [count,C] of ``bases`` [K,C], weights from a symmetric Dirichlet."""
    parameters = torch.full((len(bases.mean),), concentration, device=bases.mean.device)
    weights = torch.distributions.Dirichlet(parameters).sample((count,))
    return Styles(weights @ bases.mean, weights @ bases.std)


def farthest_points(points: Tensor, count: int, first: int) -> Tensor:
    """Return indices [count] of ``points`` [N,D]: ``first``, then repeatedly the one farthest from all chosen ones.

    Distances are Euclidean; ties go to the lowest index. Source: Qi et al., PointNet++ (NeurIPS 2017).
    """
    chosen = [first]
    distance = torch.full((len(points),), math.inf, device=points.device)
    while len(chosen) < count:
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen, device=points.device)


def base_styles(styles: Styles, count: int, first: int) -> Styles:
    """Return ``count`` of ``styles`` [N,C] by :func:`farthest_points`, with mean and deviation joined to one point."""
    chosen = farthest_points(torch.cat(styles, dim=1), count, first)
    return Styles(styles.mean[chosen], styles.std[chosen])


def style_consistency(logits: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence, in nats, of the two halves of logits [2N,C,h,w], averaged over positions.

    That is the mean of the two Kullback-Leibler divergences to the mixture of both distributions; 0 to log 2.
    """
    one, two = functional.log_softmax(logits.float(), dim=1).chunk(2)
    mixture = torch.logaddexp(one, two) - math.log(2)
    divergences = one.exp() * (one - mixture) + two.exp() * (two - mixture)
    return divergences.sum(1).mean() / 2


def first_features(backbone: Any, images: Tensor) -> Tensor:
    """Return the features [N,C,P] that define the style: MixVisionTransformer's first stage, or ResNet's pooled stem.

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
def style_hallucination(backbone: Any, bases: Styles, concentration: float) -> Iterator[None]:
    """Make the backbone return features [2N,...] for N images: the original ones, then copies with mixed styles."""

    def append_restyled(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        flat = output.flatten(2) if output.ndim == 4 else output.transpose(1, 2)  # ResNet: NCHW; MiT: N,P,C
        with torch.autocast(output.device.type, enabled=False):  # statistics are always fp32
            copy = restyle(flat.float(), mix_styles(bases, len(flat), concentration))
        copy = copy.view_as(output) if output.ndim == 4 else copy.transpose(1, 2)
        return torch.cat([output, copy.to(output.dtype)])

    last = backbone.layers[0][2] if _is_mit(backbone) else backbone.maxpool
    handle = last.register_forward_hook(append_restyled)
    try:
        yield
    finally:
        handle.remove()


def _is_mit(backbone: Any) -> bool:
    return hasattr(backbone, "layers")
