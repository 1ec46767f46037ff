"""Libraries of a GPU that tests need."""

from __future__ import annotations

import pytest
import torch

from dgkit.engines.trt_library import is_portable, load_library
from dgkit.errors import MissingDependency


def need_tensorrt() -> None:
    """Skip if neither TensorRT nor TensorRT-RTX is installed, or if the one found does not support this GPU."""
    try:
        library = load_library()
    except MissingDependency as error:
        pytest.skip(error.message)
    if library.is_rtx and not is_portable(torch.device("cuda")):
        pytest.skip("TensorRT-RTX is made for compute capability 8.x, 12.x and 7.5")
