"""Recorded calls of a network: some calibrate its quantisation, others verify the result and are kept with it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgkit.engines.onnx_export import TOLERANCES, relative_error
from dgkit.engines.runner import Call, Network
from dgkit.engines.spec import NetworkSpec
from dgkit.engines.store import Engine
from dgkit.errors import EngineError
from dgkit.progress import Notify

RunCall = Callable[[Call], Mapping[str, np.ndarray]]
HELD_OUT = "held_out.npz"  # file of a quantised engine: calls that were not used for calibration


def record_calls(network: Network, dtype: str, notify: Notify | None) -> tuple[Sequence[Call], Sequence[Call]]:
    """Return the calibration calls and the held-out calls of ``network``, and report the work to ``notify``."""
    assert network.calibration is not None
    if notify:
        notify(f"generating scenes in fp32 to calibrate the {network.spec.name} for {dtype}")
    return network.calibration.draw()


def verify_calls(
    network: Network,
    dtype: str,
    held_out: Sequence[Call],
    run: Callable[[Call], Mapping[str, np.ndarray]],
    folder: Path,
) -> dict[str, Any]:
    """Return side-car notes with the error of each output of ``run`` over ``held_out``; save the calls in ``folder``.

    Raises EngineError if an error exceeds the tolerance of ``dtype``.
    """
    spec, errors = network.spec, {}
    found = [dict(run(call)) for call in held_out]
    calls: dict[str, Any] = {name: np.concatenate([call[name] for call in held_out]) for name in held_out[0]}
    for output in spec.outputs:
        name = output.name
        off = errors[name] = relative_error(np.concatenate([values[name] for values in found]), calls[name])
        if not off <= TOLERANCES[dtype]:
            raise EngineError(
                f"{spec.name} in {dtype}: output {name} differs from PyTorch by {off:.1e} on held-out calls (relative "
                f"L2 error); at most {TOLERANCES[dtype]:.0e} is allowed",
                "use --dtype bf16",
            )
    np.savez(folder / HELD_OUT, **calls)
    return {"error": errors, "held_out": len(held_out)}


def read_calls(engine: Engine, spec: NetworkSpec) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return inputs and fp32 outputs of the calls that a quantised engine or graph was verified on."""
    with np.load(engine.file(HELD_OUT)) as file:
        inputs, outputs = (
            {item.name: torch.from_numpy(file[item.name]) for item in items} for items in (spec.inputs, spec.outputs)
        )
    return inputs, outputs
