"""Checkpoints of mmengine, read without executing anything in them."""

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
_SCALARS = "?bBhHiIlLefd"  # numpy's types of the figures that mmengine logs and saves


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds: tensors, plain values, numpy's scalars and mmengine's log buffers.

    Has "state_dict". Raises InputError for a missing file, ModelError for one that holds other things or is damaged,
    MissingDependency without mmengine.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file", "give a checkpoint that dgkit train segmenter or mmsegmentation wrote"
        )
    known = load_module("mmengine.runner.checkpoint").get_torch_safe_globals()
    known += [type(np.dtype(code)) for code in _SCALARS]
    try:
        with torch.serialization.safe_globals(known):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and end-of-file errors: all mean the same to a user
        raise ModelError(
            f"{path} is no checkpoint of tensors and plain values: {first_line(error)}", "save or download it again"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), Mapping):
        raise ModelError(f"{path} has no 'state_dict'", "give a whole checkpoint, not an encoder's weights")
    return content


def load_module(name: str) -> Any:
    """A module of mmengine, mmcv or mmsegmentation. Raises MissingDependency."""
    with quiet():
        return require(name, EXTRA)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Mmcv warns of operators that no network here needs, mmengine prints; stdout is for results."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield
