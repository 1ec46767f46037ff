"""Post-training quantisation of a network to 8 bits by NNCF, calibrated on recorded calls.

Source: NNCF, "Post-training Quantization". Layers that are not quantised keep the precision of the engine.
"""

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from dgkit.engines.runner import Call
from dgkit.errors import EngineError
from dgkit.optional import first_line, openvino_core, require

EXTRA = "int8"
SCOPE = "wide"  # docs/guides/engines.md compares the scopes
_NARROW = 16  # channels


def quantised(model: Any, calls: Sequence[Call], scope: str = SCOPE) -> Any:
    """Return ``model``, an ``openvino.Model``, with 8-bit products and int8 weights, by NNCF's transformer settings.

    ``calls`` calibrate it. ``scope``: ``wide``, all products except :func:`sensitive_layers`; ``convolutions``, only
    the convolutions among those; ``all``. Raises MissingDependency without NNCF, EngineError if it fails.
    """
    nncf: Any = load_nncf()
    types, names = ["MatMul"] if scope == "convolutions" else [], [] if scope == "all" else sensitive_layers(model)
    ignored = nncf.IgnoredScope(types=types, names=names) if types or names else None
    items = [{name: np.ascontiguousarray(value) for name, value in call.items()} for call in calls]
    try:
        with _one_core(), contextlib.redirect_stdout(io.StringIO()):  # NNCF prints progress bars
            return nncf.quantize(
                model,
                nncf.Dataset(items),
                subset_size=len(items),
                model_type=nncf.ModelType.TRANSFORMER,
                ignored_scope=ignored,
                advanced_parameters=_settings(nncf),
            )
    except Exception as error:  # NNCF raises a dozen unrelated classes
        raise EngineError(f"NNCF cannot quantise the network: {first_line(error)}", "use --dtype bf16") from error


def _settings(nncf: Any) -> Any:
    """Return NNCF settings: activation ranges over all calls, and no smoothing of channels (SmoothQuant).

    NNCF's default, the mean range over calls, clips the noisiest and the cleanest latents. Smoothing improved no
    variant of the benchmark.
    """
    return nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX,
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1),
    )


def sensitive_layers(model: Any) -> list[str]:
    """Return the names of layers that are cheap but sensitive to quantisation.

    These are convolutions from or to latents, and products with one vector per sample, which encodes the timestep.
    """
    found = []
    for node in model.get_ops():
        kind, shape = node.get_type_name(), node.output(0).get_partial_shape()
        if kind == "MatMul" and shape.rank.get_length() == 2:
            found.append(node.get_friendly_name())
        if kind == "Convolution" and min(node.input(1).get_shape()[:2]) < _NARROW:
            found.append(node.get_friendly_name())
    return found


def load_nncf() -> ModuleType:
    """Import NNCF without its side effects. Raises MissingDependency if it is not installed.

    By default NNCF reports its use to its developers, prints the layers it skips and replaces the logger class.
    """
    before = logging.getLoggerClass()
    try:
        with _variable("NNCF_CI", "1"):  # NNCF reads it once, at import
            library = require("nncf", EXTRA)
    finally:
        logging.setLoggerClass(before)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return library


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Make NNCF use the single Core of this process instead of new ones; see :func:`openvino_core` for the reason."""
    library: Any = require("openvino", "cpu")
    before = library.Core
    library.Core = openvino_core
    try:
        yield
    finally:
        library.Core = before


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
