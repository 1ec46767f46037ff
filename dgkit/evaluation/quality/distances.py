"""Distances between two sets of pictures, and the spread of one, in the feature space of a network of one's choice.

With other features than those of Inception the figures do not compare with published ones: they compare folders with
each other under the same judge.
"""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dgkit.optional import require

KERNEL_SUBSETS = 50


class _Given(nn.Module):
    """Stands where torchmetrics expects the feature network: the features are here already."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.num_features = size

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Fréchet distance of Gaussians fitted to float [N,D] and [M,D] (Heusel et al. 2017, arXiv 1706.08500).

    Biased upwards for few pictures: compare only sets of one size. Raises MissingDependency without torchmetrics.
    """
    metric = _metric("fid", "FrechetInceptionDistance", real.shape[1])
    metric.set_dtype(torch.float64)
    return float(_fed(metric, real, generated).compute())


def kernel_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Squared maximum mean discrepancy under a cubic kernel (Binkowski et al. 2018, arXiv 1801.01401), unbiased.

    The mean over 50 random subsets of at most 100 pictures; the same arguments give the same figure. It can be slightly
    negative. Features float [N,D] and [M,D], N and M at least 2.
    """
    size = min(len(real), len(generated), 100)
    metric = _metric("kid", "KernelInceptionDistance", real.shape[1], subsets=KERNEL_SUBSETS, subset_size=size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mean, _ = _fed(metric, real, generated).compute()
    return float(mean)


def diversity(features: np.ndarray) -> float:
    """Mean Euclidean distance between two different pictures, of features float [N,D] with N at least 2."""
    return float(torch.pdist(torch.from_numpy(np.asarray(features, np.float64))).mean())


def _metric(module: str, name: str, size: int, **settings: Any) -> Any:
    images = require(f"torchmetrics.image.{module}", "train")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric .* will save all extracted features")
        return getattr(images, name)(feature=_Given(size), **settings)


def _fed(metric: Any, real: np.ndarray, generated: np.ndarray) -> Any:
    metric.update(torch.from_numpy(np.asarray(real, np.float64)), real=True)
    metric.update(torch.from_numpy(np.asarray(generated, np.float64)), real=False)
    return metric
