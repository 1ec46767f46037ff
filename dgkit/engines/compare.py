"""Two backends on the same inputs: error of each output against a stated tolerance, and where one is not finite.

The first backend is the reference.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dgkit.engines.engine_recipe import network_dtype
from dgkit.engines.onnx_export import TOLERANCES, example_inputs
from dgkit.engines.runner import QUANTISED, Network, Runner, known_dtype, runner_class
from dgkit.engines.store import Policy
from dgkit.errors import UsageError
from dgkit.progress import Notify


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
class EngineSpec:
    """One of the two: an engine and a dtype, written ``ort`` or ``torch:bf16``."""

    engine: str
    dtype: str = "fp32"

    @classmethod
    def parse(cls, text: str) -> "EngineSpec":
        """UsageError for an engine or a dtype that is not known."""
        engine, _, dtype = text.partition(":")
        runner_class(engine), known_dtype(dtype or "fp32")
        return cls(engine, dtype or "fp32")

    def of(self, network: str) -> "EngineSpec":
        """With the dtype that the network called so gets beside a denoiser in this one."""
        return EngineSpec(self.engine, network_dtype(network, self.engine, self.dtype))

    def __str__(self) -> str:
        return f"{self.engine}:{self.dtype}"


def check_network(
    load: Callable[[], Network],
    first: EngineSpec,
    second: EngineSpec,
    *,
    device: str = "cpu",
    batch: int = 2,
    seed: int = 0,
    rebuild: Policy = "auto",
    notify: Notify | None = None,
) -> list[OutputCheck]:
    """Run a network on both sides, one after the other, with random inputs of the model's own sizes; where a side is
    quantised, with those of the calls that its engine was verified on, ``batch`` of them at once.

    ``load`` is called for each side and gives the network with untouched weights: a side may round those it was given.
    Raises what the runners raise, and UsageError where ``batch`` is not positive.
    """
    if batch < 1:
        raise UsageError(f"batch {batch}; allowed are 1 and more")
    network = load()
    sides = (first.of(network.spec.name), second.of(network.spec.name))

    def runner_of(side: EngineSpec, network: Network) -> Runner:
        return runner_class(side.engine)(network, device, side.dtype, rebuild=rebuild, notify=notify)

    inputs = example_inputs(network, batch=batch, seed=seed)
    for side in sides:
        if side.dtype in QUANTISED and (held_out := runner_of(side, network).held_out()):
            inputs = held_out[0]
    outputs = []
    for side in sides:
        with runner_of(side, load()) as runner:
            outputs.append({name: value.cpu() for name, value in run_in_batches(runner, inputs, batch).items()})
    expected, found = outputs
    names, tolerance = (str(sides[0]), str(sides[1])), max(TOLERANCES[side.dtype] for side in sides)
    return compare_outputs(network.spec.name, names, expected, found, tolerance)


def run_in_batches(runner: Runner, inputs: Mapping[str, Tensor], batch: int) -> dict[str, Tensor]:
    """Float32 outputs by name of an open runner, ``batch`` samples at once, on its device."""
    count = min(len(value) for value in inputs.values())
    parts = [
        runner(**{name: value[start : start + batch] for name, value in inputs.items()})
        for start in range(0, count, batch)
    ]
    return {name: torch.cat([part[name].float() for part in parts]) for name in parts[0]}


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
