"""Conversion between the float images of a VAE and 8-bit images."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_uint8(image: Tensor) -> np.ndarray:
    """Convert one image float [3, H, W] in [-1, 1] to uint8 [H, W, 3]; values are clamped and rounded."""
    unit = (image.float() / 2 + 0.5).clamp(0, 1)
    pixels: np.ndarray = (unit * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(pixels)


def to_float(pixels: np.ndarray) -> Tensor:
    """Convert uint8 [H, W, 3] to float32 [3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255.0 * 2.0 - 1.0


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize to uint8 [height, width, 3] by Lanczos, as DGInStyle does between and after the passes."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
