"""Two backends on the same inputs: error of each output against a stated tolerance, and where one is not finite.

The first backend is the reference.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dgkit.engines.base import Network, Runner, find_dtype, runner_class
from dgkit.engines.export import TOLERANCES, example_inputs
from dgkit.engines.store import Notify, Policy
from dgkit.errors import UsageError


@dataclass(frozen=True)
class OutputCheck:
    """One output: ``relative`` is the L2 norm of the difference over that of the reference, ``absolute`` its maximum.

    Both are NaN where a value is not finite; ``not_finite`` then says how many in which backend, and where the first
    is.
    """

    network: str
    output: str
    relative: float
    absolute: float
    tolerance: float
    not_finite: str

    @property
    def passed(self) -> bool:
        return not self.not_finite and self.relative <= self.tolerance


@dataclass(frozen=True)
class Side:
    """One of the two: an engine and a dtype, written ``ort`` or ``torch:bf16``."""

    engine: str
    dtype: str = "fp32"

    @classmethod
    def parse(cls, text: str) -> "Side":
        """UsageError for an engine or a dtype that is not known."""
        engine, _, dtype = text.partition(":")
        runner_class(engine), find_dtype(dtype or "fp32")
        return cls(engine, dtype or "fp32")

    def __str__(self) -> str:
        return f"{self.engine}:{self.dtype}"


def check_network(
    load: Callable[[], Network],
    first: Side,
    second: Side,
    *,
    device: str = "cpu",
    batch: int = 2,
    seed: int = 0,
    rebuild: Policy = "auto",
    notify: Notify | None = None,
) -> list[OutputCheck]:
    """Run a network on both sides, one after the other, with random inputs of the model's own sizes.

    ``load`` is called for each side and gives the network with untouched weights: a side may round those it was given.
    Raises what the runners raise, and UsageError where ``batch`` is not positive.
    """
    if batch < 1:
        raise UsageError(f"batch {batch}; allowed are 1 and more")
    outputs = []
    for side in (first, second):
        network = load()
        inputs = example_inputs(network, batch=batch, seed=seed)
        runner: Runner = runner_class(side.engine)(network, device, side.dtype, rebuild=rebuild, notify=notify)
        with runner:
            outputs.append({name: value.float().cpu() for name, value in runner(**inputs).items()})
    tolerance = max(TOLERANCES[side.dtype] for side in (first, second))
    expected, found = outputs
    return compare_outputs(network.spec.name, (str(first), str(second)), expected, found, tolerance)


def compare_outputs(
    network: str, sides: tuple[str, str], expected: Mapping[str, Tensor], found: Mapping[str, Tensor], tolerance: float
) -> list[OutputCheck]:
    """Each output of two backends by name, float tensors of equal shape on the CPU; ``expected`` is the reference."""
    checks = []
    for name, value in expected.items():
        pair = zip(sides, (value, found[name]), strict=True)
        problems = "; ".join(text for side, tensor in pair if (text := _not_finite(side, tensor)))
        relative = absolute = float("nan")
        if not problems:
            difference = found[name].double() - value.double()
            relative = float(difference.norm()) / max(float(value.double().norm()), 1e-30)
            absolute = float(difference.abs().max())
        checks.append(OutputCheck(network, name, relative, absolute, tolerance, problems))
    return checks


def _not_finite(side: str, value: Tensor) -> str:
    bad = ~torch.isfinite(value)
    count = int(bad.sum())
    if not count:
        return ""
    place = [int(index) for index in bad.nonzero()[0]]
    return f"{side}: {count} of {value.numel()} values, the first {float(value[tuple(place)])} at {place}"
