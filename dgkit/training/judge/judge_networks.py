"""The judge's two networks: a segmenter that resolves thin objects, and a style classifier.

Both train on two CPU cores in minutes and consist of convolutions and batch norms, which ONNX Runtime fuses.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from dgkit.labels import NUM_CLASSES
from dgkit.segmenters.base import IMAGENET_MEAN, IMAGENET_STD, Normalization

CHANNELS = (32, 64, 96, 128)  # of the segmenter, at strides 2, 4, 8, 16
FACTOR = 16  # height and width of the segmenter's images must be multiples of this
STYLE_SIZE = 128  # side of the classifier's images, pixels


def normalization(module: nn.Module) -> Normalization:
    """Return how a network of the judge takes its images."""
    found = module.norm
    assert isinstance(found, Normalization)
    return found


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two 3x3 convolutions with a skip connection (He et al. 2016, arXiv 1512.03385, figure 5 left)."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = _conv(channels, channels, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of ``x``, float32 [B,C,H,W]."""
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class SegmenterNetwork(nn.Module):
    """U-Net (Ronneberger et al. 2015, arXiv 1505.04597) on a pixel-unshuffled image."""

    norm = Normalization(IMAGENET_MEAN, IMAGENET_STD, FACTOR)

    def __init__(self, channels: tuple[int, ...] = CHANNELS, classes: int = NUM_CLASSES) -> None:
        super().__init__()
        # Pixels move into channels: a pole one pixel wide keeps its full resolution, at a quarter of the cost.
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), _conv(12, channels[0]), nn.ReLU())
        self.levels = nn.ModuleList(Residual(c) for c in channels[:-1])
        self.deepest = nn.Sequential(*(Residual(channels[-1], dilation) for dilation in (1, 2, 4)))
        pairs = list(pairwise(channels))
        self.down = nn.ModuleList(nn.Sequential(_conv(a, b, stride=2), nn.ReLU()) for a, b in pairs)
        self.up = nn.ModuleList(_conv(b, a, kernel=1) for a, b in reversed(pairs))
        self.merge = nn.ModuleList(Residual(a) for a, _ in reversed(pairs))
        self.head = nn.Sequential(nn.Conv2d(channels[0], 4 * classes, 1), nn.PixelShuffle(2))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``logits`` [B,19,H,W] and ``features`` [B,128], the mean of the deepest level over the image.

        ``image`` is float32 [B,3,H,W], H and W multiples of :data:`FACTOR`, normalised as in the side-car.
        """
        x = self.stem(image)
        skips = []
        for level, down in zip(self.levels, self.down, strict=True):
            x = level(x)
            skips.append(x)
            x = down(x)
        x = self.deepest(x)
        features = x.mean((2, 3))
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = functional.interpolate(up(x), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = merge(functional.relu(x + skip))
        return self.head(x), features


class StyleNetwork(nn.Module):
    """Classifier of the style (weather or time of day) of an image."""

    norm = Normalization(IMAGENET_MEAN, IMAGENET_STD)

    def __init__(self, styles: int) -> None:
        super().__init__()
        widths = (3, 16, 32, 48, 64)
        stages = (nn.Sequential(_conv(a, b, stride=2), nn.ReLU(), Residual(b)) for a, b in pairwise(widths))
        self.body = nn.Sequential(*stages)
        # Mean and maximum: night changes the mean of an image, snow and rain are small marks all over it.
        self.head = nn.Linear(2 * widths[-1], styles)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B,styles] of float32 [B,3,128,128], normalised as in the side-car."""
        x = self.body(image)
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))
