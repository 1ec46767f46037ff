"""Distances between two sets of images, and the diversity of one, in the feature space of any network.

Unless the features are those of Inception, the figures are not comparable with published ones: they compare folders
under the same judge.
"""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dgkit.optional import require

KERNEL_SUBSETS = 50


class _Identity(nn.Module):
    """The feature network for torchmetrics, which gets features instead of images."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.num_features = size

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Return the Fréchet distance of Gaussians fitted to float [N,D] and [M,D] (Heusel et al. 2017, arXiv 1706.08500).

    It is biased upwards for few images, so compare only sets of equal size. Raises MissingDependency without
    torchmetrics.
    """
    metric = _metric("fid", "FrechetInceptionDistance", real.shape[1])
    metric.set_dtype(torch.float64)
    return float(_updated(metric, real, generated).compute())


def kernel_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Return the squared maximum mean discrepancy under a cubic kernel (Binkowski et al. 2018, arXiv 1801.01401).

    Features are float [N,D] and [M,D], N and M at least 2. The estimate is unbiased and can be slightly negative. It is
    the mean over 50 random subsets of at most 100 images, always the same ones for the same arguments.
    """
    size = min(len(real), len(generated), 100)
    metric = _metric("kid", "KernelInceptionDistance", real.shape[1], subsets=KERNEL_SUBSETS, subset_size=size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mean, _ = _updated(metric, real, generated).compute()
    return float(mean)


def diversity(features: np.ndarray) -> float:
    """Return the mean Euclidean distance between two different images; features float [N,D], N at least 2."""
    return float(torch.pdist(torch.from_numpy(np.asarray(features, np.float64))).mean())


def _metric(module: str, name: str, size: int, **settings: Any) -> Any:
    images = require(f"torchmetrics.image.{module}", "train")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric .* will save all extracted features")
        return getattr(images, name)(feature=_Identity(size), **settings)


def _updated(metric: Any, real: np.ndarray, generated: np.ndarray) -> Any:
    metric.update(torch.from_numpy(np.asarray(real, np.float64)), real=True)
    metric.update(torch.from_numpy(np.asarray(generated, np.float64)), real=False)
    return metric
