"""Features of images in networks that know photographs, for distances between sets of images."""

from typing import Any

import numpy as np
import torch

from dgkit.errors import UsageError, did_you_mean
from dgkit.files import digest_file
from dgkit.segmenters.efficientnet_lite import IMAGENET, LITE_MEAN, LITE_STD, EfficientNetLite0, imagenet_file

JUDGE = "judge"
FEATURES = (JUDGE, IMAGENET)  # names of feature spaces


class ImageFeatures:
    """The deepest features of EfficientNet-Lite0 with ImageNet weights, averaged over the image."""

    def __init__(self) -> None:
        """Load the network. Raises MissingDependency without the extra ``imagenet``."""
        self.network = EfficientNetLite0(levels=False).eval().requires_grad_(False)
        self.network.load_pretrained(IMAGENET)
        self.mean, self.std = (torch.tensor(values).view(1, 3, 1, 1) for values in (LITE_MEAN, LITE_STD))

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return float32 [320] for ``image``, uint8 [H,W,3] RGB of any size."""
        values = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
        found: np.ndarray = self.network((values - self.mean) / self.std)[0].mean((2, 3))[0].numpy()
        return found

    def to_json(self) -> dict[str, Any]:
        """Return name and SHA-256 of the weights."""
        return {"name": f"EfficientNet-Lite0, {IMAGENET}", "sha256": digest_file(imagenet_file())}


def open_features(name: str) -> ImageFeatures | None:
    """Return the network of a feature space of :data:`FEATURES`; None for the judge's segmenter. Raises UsageError."""
    if name not in FEATURES:
        raise UsageError(
            f"unknown features {name!r}; known: {', '.join(FEATURES)}",
            did_you_mean(name, FEATURES, "use --features imagenet"),
        )
    return None if name == JUDGE else ImageFeatures()
