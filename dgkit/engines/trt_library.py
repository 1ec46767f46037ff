"""TensorRT and TensorRT-RTX behind one interface: the choice of library, its messages, and the progress of its builds.

Their Python interfaces differ in a few calls only, see https://docs.nvidia.com/deeplearning/tensorrt and
https://docs.nvidia.com/deeplearning/tensorrt-rtx. TensorRT tunes an engine on the GPU that will run it. TensorRT-RTX
builds without a GPU, for compute capability 8.x and 12.x at once, and compiles kernels at the first run of an engine.
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
INTERVAL = 10.0  # minimum seconds between two progress lines
_MODULES = {"tensorrt": ("trt", "tensorrt", "gpu"), "rtx": ("rtx", "tensorrt_rtx", "rtx")}  # backend, module, extra


@dataclass(frozen=True)
class TrtLibrary:
    """The imported library; ``backend`` is ``trt`` or ``rtx``, as in the key of an engine."""

    backend: str
    module: Any
    logger: Any

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT-RTX."""
        return self.backend == "rtx"

    def reason(self) -> str:
        """Return the first error message since the last call, on one line."""
        messages, self.logger.messages = self.logger.messages, []
        text = " ".join((messages or ["no reason given"])[0].split())
        return text if len(text) <= 300 else f"{text[:300]}…"


def load_library() -> TrtLibrary:
    """Return TensorRT if it is installed, else TensorRT-RTX; ``DGKIT_TRT`` (``tensorrt`` or ``rtx``) overrides this.

    Raises MissingDependency if neither can be imported, UsageError for another value of the variable.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted and wanted not in _MODULES:
        raise UsageError(f"{VARIABLE} is {wanted!r}; allowed: {', '.join(_MODULES)}", f"unset {VARIABLE}")
    for name in (wanted,) if wanted else _MODULES:
        try:
            return _load(name)
        except MissingDependency:
            if wanted:
                raise
    raise MissingDependency(
        "engine 'trt' needs the Python package 'tensorrt' or 'tensorrt_rtx'; neither can be imported",
        f"{install_command('rtx')} or {install_command('gpu')}",
    )


@functools.cache
def _load(name: str) -> TrtLibrary:
    backend, package, extra = _MODULES[name]
    module: Any = require(package, extra)
    base: Any = module.ILogger

    class Logger(base):
        """Collects error messages, which the library would print."""

        def __init__(self) -> None:
            base.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Keep an error message."""
            if severity == base.ERROR:
                self.messages.append(message)

    return TrtLibrary(backend, module, Logger())


def make_monitor(library: TrtLibrary, notify: Notify | None, name: str) -> Any:
    """Return an ``IProgressMonitor`` that reports a build to ``notify``, at most every :data:`INTERVAL` seconds.

    Ctrl-C stops the build after the current step; ``cancelled`` is then True.
    """
    base: Any = library.module.IProgressMonitor

    class Monitor(base):
        """Reports phases and steps of a build."""

        def __init__(self) -> None:
            base.__init__(self)
            self.steps: dict[str, int] = {}
            self.reported, self.cancelled = time.monotonic(), False

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            """Note the number of steps of a phase."""
            self.steps[phase] = steps

        def phase_finish(self, phase: str) -> None:
            """Forget a phase."""
            self.steps.pop(phase, None)

        def step_complete(self, phase: str, step: int) -> bool:
            """Report a step and return whether to continue."""
            try:
                if notify is not None and time.monotonic() - self.reported >= INTERVAL:
                    self.reported = time.monotonic()
                    notify(f"building {name}: {phase}, step {step + 1} of {self.steps.get(phase, step + 1)}")
            except KeyboardInterrupt:  # must not propagate through the library
                self.cancelled = True
            return not self.cancelled

    return Monitor()


def on_gpu(device: torch.device) -> bool:
    """Return whether ``device`` is a GPU that torch sees."""
    return device.type == "cuda" and torch.cuda.is_available()


def is_portable(device: torch.device) -> bool:
    """Return whether a TensorRT-RTX engine for its default targets runs on ``device``; True if that is not a GPU."""
    if not on_gpu(device):
        return True
    major, _ = torch.cuda.get_device_capability(device)
    return major == 8 or major >= 12
