"""TensorRT and TensorRT-RTX behind one seam: which of the two is used, its messages, and the progress of its builds.

Their Python interfaces are the same but for a few calls, see https://docs.nvidia.com/deeplearning/tensorrt and
https://docs.nvidia.com/deeplearning/tensorrt-rtx. TensorRT tunes an engine on the GPU it is for. TensorRT-RTX builds
without a GPU, for compute capability 8.x and 12.x at once, and compiles its kernels when the engine is first run.
"""

import functools
import os
import time
from dataclasses import dataclass
from typing import Any

import torch

from dgkit.errors import MissingDependency, UsageError
from dgkit.optional import install_command, require
from dgkit.progress import Notify

VARIABLE = "DGKIT_TRT"
INTERVAL = 10.0  # seconds between two lines of progress
_MODULES = {"tensorrt": ("trt", "tensorrt", "gpu"), "rtx": ("rtx", "tensorrt_rtx", "rtx")}  # backend, module, extra


@dataclass(frozen=True)
class TrtLibrary:
    """``backend`` is ``trt`` or ``rtx`` as in the key of an engine, ``module`` the imported package."""

    backend: str
    module: Any
    logger: Any

    @property
    def is_rtx(self) -> bool:
        return self.backend == "rtx"

    def reason(self) -> str:
        """Its first error message since the last call, on one line."""
        messages, self.logger.messages = self.logger.messages, []
        text = " ".join((messages or ["no reason given"])[0].split())
        return text if len(text) <= 300 else f"{text[:300]}…"


def load_library() -> TrtLibrary:
    """TensorRT where it is installed, else TensorRT-RTX; the variable ``DGKIT_TRT`` (``tensorrt``, ``rtx``) chooses.

    MissingDependency where neither can be imported, UsageError for another value of the variable.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted and wanted not in _MODULES:
        raise UsageError(f"{VARIABLE} is {wanted!r}; allowed are {', '.join(_MODULES)}")
    for name in (wanted,) if wanted else _MODULES:
        try:
            return _load(name)
        except MissingDependency:
            if wanted:
                raise
    raise MissingDependency(
        "engine 'trt' needs one of the Python packages 'tensorrt' and 'tensorrt_rtx'; neither can be imported",
        f"{install_command('rtx')} or {install_command('gpu')}",
    )


@functools.cache
def _load(name: str) -> TrtLibrary:
    backend, package, extra = _MODULES[name]
    module: Any = require(package, extra)

    base: Any = module.ILogger

    class Logger(base):
        """Keeps what the library says of errors; the library itself would print it."""

        def __init__(self) -> None:
            base.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity == base.ERROR:
                self.messages.append(message)

    return TrtLibrary(backend, module, Logger())


def make_monitor(library: TrtLibrary, notify: Notify | None, name: str) -> Any:
    """An ``IProgressMonitor`` that tells ``notify`` at most every :data:`INTERVAL` seconds how far a build is.

    Ctrl-C between two steps stops the build; ``cancelled`` then is True.
    """
    base: Any = library.module.IProgressMonitor

    class Monitor(base):
        def __init__(self) -> None:
            base.__init__(self)
            self.steps: dict[str, int] = {}
            self.told, self.cancelled = time.monotonic(), False

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

        def step_complete(self, phase: str, step: int) -> bool:
            try:
                if notify is not None and time.monotonic() - self.told >= INTERVAL:
                    self.told = time.monotonic()
                    notify(f"building {name}: {phase}, step {step + 1} of {self.steps.get(phase, step + 1)}")
            except KeyboardInterrupt:  # must not cross the library
                self.cancelled = True
            return not self.cancelled

    return Monitor()


def on_gpu(device: torch.device) -> bool:
    """Whether ``device`` is a GPU that torch sees."""
    return device.type == "cuda" and torch.cuda.is_available()


def is_portable(device: torch.device) -> bool:
    """Whether an engine of TensorRT-RTX for all of its usual targets runs on ``device``; True where that is no GPU."""
    if not on_gpu(device):
        return True
    major, _ = torch.cuda.get_device_capability(device)
    return major == 8 or major >= 12
