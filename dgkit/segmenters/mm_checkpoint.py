"""Read checkpoints of mmengine without executing anything in them."""

import contextlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dgkit.errors import InputError, ModelError
from dgkit.optional import first_line, require

EXTRA = "seg"
_SCALARS = "?bBhHiIlLefd"  # NumPy type codes of the figures that mmengine logs and saves


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint of tensors, plain values, NumPy scalars and mmengine's log buffers; it has a "state_dict".

    Raises InputError for a missing file, ModelError for one that is damaged or holds other types, MissingDependency
    without mmengine.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", "use a checkpoint that dgkit train segmenter or mmsegmentation wrote")
    known = load_module("mmengine.runner.checkpoint").get_torch_safe_globals()
    known += [type(np.dtype(code)) for code in _SCALARS]
    try:
        with torch.serialization.safe_globals(known):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and end-of-file errors have the same cause
        raise ModelError(
            f"{path} is not a checkpoint of tensors and plain values: {first_line(error)}", "save or download it again"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), Mapping):
        raise ModelError(f"{path} has no 'state_dict'", "use a whole checkpoint, not the weights of an encoder")
    return content


def load_module(name: str) -> Any:
    """Import a module of mmengine, mmcv or mmsegmentation. Raises MissingDependency."""
    with quiet():
        return require(name, EXTRA)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings of mmcv about operators that are not needed, and send what mmengine prints to stderr."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield
