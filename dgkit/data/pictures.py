"""Images: read them, and crop the square that a classifier takes."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from dgkit.errors import InputError


def read_picture(path: Path | str) -> np.ndarray:
    """Read a PNG or JPEG file as uint8 [H,W,3] RGB. Raises InputError naming the file."""
    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert("RGB"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file", "check the path of the image") from error
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}", "copy or generate it again") from error


def centre_square(image: np.ndarray, size: int) -> np.ndarray:
    """Crop the largest central square of uint8 [H,W,3] and resize it to uint8 [size,size,3]."""
    import cv2

    side = min(image.shape[:2])
    y, x = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = np.ascontiguousarray(image[y : y + side, x : x + side])
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
