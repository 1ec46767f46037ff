"""Products of a network in 8 bits: quantised after training by NNCF, calibrated on calls that it gets in use.

Source: NNCF, "Post-training Quantization". What is not quantised keeps the precision that the engine computes in.
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
SCOPE = "wide"  # docs/engines.md has what the others gain and lose
_NARROW = 16  # channels


def quantised(model: Any, calls: Sequence[Call], scope: str = SCOPE) -> Any:
    """``model``, an ``openvino.Model``, with 8-bit products by NNCF's settings for transformers; weights are int8.

    ``calls`` calibrate it. ``scope``: ``wide``, all products but those that :func:`narrow` names; ``convolutions``
    among them; ``all``. MissingDependency without NNCF, EngineError where it fails.
    """
    nncf: Any = load_nncf()
    types, names = ["MatMul"] if scope == "convolutions" else [], [] if scope == "all" else narrow(model)
    ignored = nncf.IgnoredScope(types=types, names=names) if types or names else None
    items = [{name: np.ascontiguousarray(value) for name, value in call.items()} for call in calls]
    try:
        with _one_core(), contextlib.redirect_stdout(io.StringIO()):  # bars of progress
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
    """Activations range over all calls: the mean over calls, which is NNCF's own choice, cuts off what the noisiest and
    the cleanest latents need. Channels are not smoothed (SmoothQuant): no variant of the benchmark got better by it.
    """
    return nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX,
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1),
    )


def narrow(model: Any) -> list[str]:
    """Layers that cost little and carry much: convolutions from or to latents, products with a vector per sample, which
    stands for the timestep.
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
    """NNCF without what it does beside its work: it reports its use to its makers, prints what it passes over, and
    makes its own class that of all loggers. MissingDependency where it is not installed.
    """
    before = logging.getLoggerClass()
    try:
        with _variable("NNCF_CI", "1"):  # read once, when it is imported
            library = require("nncf", EXTRA)
    finally:
        logging.setLoggerClass(before)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return library


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """NNCF makes a Core for every model that it runs; why there is to be one, :func:`openvino_core` tells."""
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
