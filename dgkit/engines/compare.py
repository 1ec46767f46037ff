"""Comparison of two engines on the same inputs: the error of each output, and where values are not finite.

The first engine is the reference.
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
    """The comparison of one output.

    ``relative`` is the L2 norm of the difference over that of the reference, ``absolute`` the maximum difference. Both
    are NaN if a value is not finite; ``not_finite`` then gives the engine, the number of such values and the index of
    the first one.
    """

    network: str
    output: str
    relative: float
    absolute: float
    tolerance: float
    not_finite: str

    @property
    def passed(self) -> bool:
        """Whether all values are finite and the relative error is within the tolerance."""
        return not self.not_finite and self.relative <= self.tolerance


@dataclass(frozen=True)
class EngineSpec:
    """An engine and its dtype, written ``ort`` or ``torch:bf16``."""

    engine: str
    dtype: str = "fp32"

    @classmethod
    def parse(cls, text: str) -> "EngineSpec":
        """Return the spec that ``text`` describes. Raises UsageError for an unknown engine or dtype."""
        engine, _, dtype = text.partition(":")
        runner_class(engine), known_dtype(dtype or "fp32")
        return cls(engine, dtype or "fp32")

    def of(self, network: str) -> "EngineSpec":
        """Return the spec for ``network`` in a model whose denoiser has this dtype."""
        return EngineSpec(self.engine, network_dtype(network, self.engine, self.dtype))

    def __str__(self) -> str:
        return f"{self.engine}:{self.dtype}"


@dataclass(frozen=True)
class Comparison:
    """What to compare: a network on the engines ``first``, the reference, and ``second``.

    ``load`` is called for each engine and returns the network with unmodified weights: an engine may round the weights
    that it is given. ``batch`` is the number of samples per call, ``seed`` that of random inputs. Raises UsageError if
    ``batch`` is not positive.
    """

    load: Callable[[], Network]
    first: EngineSpec
    second: EngineSpec
    device: str = "cpu"
    batch: int = 2
    seed: int = 0
    rebuild: Policy = "auto"
    notify: Notify | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UsageError(f"batch {self.batch}; allowed: 1 or more", "use for example --batch 2")

    def inputs(self, network: Network) -> dict[str, Tensor]:
        """Return random inputs by name, of the model's own sizes."""
        return example_inputs(network, batch=self.batch, seed=self.seed)

    def runner(self, side: EngineSpec, network: Network) -> Runner:
        """Return a runner of ``network`` on one of the engines, not opened."""
        runner: Runner = runner_class(side.engine)(
            network, self.device, side.dtype, rebuild=self.rebuild, notify=self.notify
        )
        return runner


def check_network(comparison: Comparison) -> list[OutputCheck]:
    """Run a network on both engines, one after the other, and compare each output.

    Inputs are random. If an engine is quantised, they are the held-out calls that it was verified on, ``batch`` of them
    per call. Raises what the runners raise.
    """
    network = comparison.load()
    sides = (comparison.first.of(network.spec.name), comparison.second.of(network.spec.name))
    inputs = comparison.inputs(network)
    for side in sides:
        if side.dtype in QUANTISED and (held_out := comparison.runner(side, network).held_out()):
            inputs = held_out[0]
    outputs = []
    for side in sides:
        with comparison.runner(side, comparison.load()) as runner:
            found = run_in_batches(runner, inputs, comparison.batch)
            outputs.append({name: value.cpu() for name, value in found.items()})
    expected, found = outputs
    names = (str(sides[0]), str(sides[1]))
    return compare_outputs(network.spec.name, names, expected, found, allowed_error(*sides))


def allowed_error(*sides: EngineSpec) -> float:
    """Return the tolerance of the least precise of the given dtypes."""
    return max(TOLERANCES[side.dtype] for side in sides)


def run_in_batches(runner: Runner, inputs: Mapping[str, Tensor], batch: int) -> dict[str, Tensor]:
    """Return the float32 outputs of an open runner by name, on its device; ``batch`` samples per call."""
    count = min(len(value) for value in inputs.values())
    parts = [
        runner(**{name: value[start : start + batch] for name, value in inputs.items()})
        for start in range(0, count, batch)
    ]
    return {name: torch.cat([part[name].float() for part in parts]) for name in parts[0]}


def compare_outputs(
    network: str, sides: tuple[str, str], expected: Mapping[str, Tensor], found: Mapping[str, Tensor], tolerance: float
) -> list[OutputCheck]:
    """Compare the outputs of two engines by name: float tensors of equal shape on the CPU.

    ``expected`` is the reference. ``sides`` names the engines in messages.
    """
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
