"""ONNX Runtime on the CPU, fp32, from an export of each network in the engine store."""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgkit.engines.base import BuildOptions, Network, Runner
from dgkit.engines.export import MODEL, export_engine
from dgkit.engines.store import Engine, Notify, Policy, rebuild_command
from dgkit.errors import EngineError, UsageError
from dgkit.optional import first_line, require


class OrtRunner(Runner):
    """Runs the ONNX file, exported on first use unless ``rebuild`` is ``never``; ``notify`` is told of an export.

    Outputs are fresh fp32 tensors on the CPU.
    """

    def __init__(
        self,
        network: Network,
        device: str = "cpu",
        dtype: str = "fp32",
        *,
        rebuild: Policy = "auto",
        notify: Notify | None = None,
        options: BuildOptions | None = None,
    ) -> None:
        super().__init__(network, device, dtype, rebuild=rebuild, notify=notify, options=options)
        if self.device.type != "cpu" or dtype != "fp32":
            raise UsageError(
                f"engine 'ort' runs on the CPU in fp32; asked for {device} in {dtype}",
                "use --engine torch, or --device cpu --dtype fp32",
            )
        self._session: Any = None

    def prepare(self) -> list[Engine]:
        return [export_engine(self.network, self.rebuild, self.notify)]

    def _open(self) -> None:
        runtime = require("onnxruntime", "cpu")
        (engine,) = self.prepare()
        path = engine.file(MODEL)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            hint = rebuild_command(engine.key, self.network.model)
            raise EngineError(f"{path} cannot be opened: {first_line(error)}", hint) from error

    def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        feed = {name: np.ascontiguousarray(_numpy(tensor)) for name, tensor in tensors.items()}
        names = [spec.name for spec in self.spec.outputs]
        try:
            values = self._session.run(names, feed)
        except Exception as error:  # see above
            hint = "images smaller than the model's own size need --engine torch"
            raise EngineError(f"{self}: {first_line(error)}", hint) from error
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    def _close(self) -> None:
        self._session = None


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else None).numpy()
