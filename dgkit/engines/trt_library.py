"""TensorRT, TensorRT-RTX and NVIDIA's Polygraphy: the choice of library, its messages, and the progress of its builds.

The Python interfaces of the two libraries differ in a few calls only, see https://docs.nvidia.com/deeplearning/tensorrt
and https://docs.nvidia.com/deeplearning/tensorrt-rtx. TensorRT tunes an engine on the GPU that will run it.
TensorRT-RTX builds without a GPU, for compute capability 8.x and 12.x at once, and compiles kernels at the first run of
an engine. Polygraphy calls the one that :data:`trt` stands for.
"""

import contextlib
import functools
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from dgkit.errors import EngineError, MissingDependency, UsageError
from dgkit.optional import install_command, require
from dgkit.progress import Notify

VARIABLE = "DGKIT_TRT"
INTERVAL = 10.0  # minimum seconds between two progress lines
_MODULES = {"tensorrt": ("trt", "tensorrt", "gpu"), "rtx": ("rtx", "tensorrt_rtx", "rtx")}  # backend, module, extra
_MEMORY = re.compile(r"Total Activation Memory: (\d+) bytes")
DTYPE_NAMES = {"float": "fp32", "half": "fp16"}
"""Names of number formats in TensorRT, in lower case, and in dgkit; the others are equal."""

if TYPE_CHECKING:
    import tensorrt as trt
else:

    class _Chosen:
        def __getattr__(self, name: str) -> Any:
            return getattr(load_library().module, name)

    trt = _Chosen()
"""The module of the chosen library; it is imported when its first attribute is read."""


class Messages(logging.Handler):
    """Collects what the library and Polygraphy report: ``errors``, and bytes of the ``activations`` of an engine."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []
        self.activations: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep an error, or the memory that an engine needs for its largest call."""
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            self.errors.append(text)
        elif found := _MEMORY.search(text):
            self.activations = int(found[1])


MESSAGES = Messages()


@dataclass(frozen=True)
class TrtLibrary:
    """The imported library; ``backend`` is ``trt`` or ``rtx``, as in the key of an engine."""

    backend: str
    module: Any
    messages: Messages = field(default=MESSAGES)

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT-RTX."""
        return self.backend == "rtx"

    @property
    def logger(self) -> Any:
        """The ``ILogger`` that passes messages to :class:`Messages`."""
        return polygraphy("backend.trt").get_trt_logger()

    def reason(self) -> str:
        """Return the first error message since the last call, on one line."""
        errors, self.messages.errors = self.messages.errors, []
        text = " ".join((errors or ["no reason given"])[0].split())
        return text if len(text) <= 300 else f"{text[:300]}…"

    @contextlib.contextmanager
    def reporting(self, what: str, hint: str = "use --engine torch") -> Iterator[None]:
        """Raise what Polygraphy raises as an EngineError that says ``what`` failed and why."""
        self.reason()  # clears earlier messages
        failure: Any = polygraphy("exception").PolygraphyException
        with warnings.catch_warnings():
            # Polygraphy always sets a timing cache, which TensorRT-RTX ignores and has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                yield
            except failure:
                raise EngineError(f"{what}: {self.reason()}", hint) from None


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
    module = require(package, extra)
    if not hasattr(module, "Builder"):  # tensorrt-stubs install a folder of this name
        raise MissingDependency(f"the Python package '{package}' has type stubs only", install_command(extra))
    return TrtLibrary(backend, module)


def polygraphy(name: str) -> Any:
    """Return the module ``polygraphy.NAME``, set up for the chosen library, if any.

    Raises MissingDependency if Polygraphy is not installed, UsageError if the library changed after its first use.
    """
    try:
        is_rtx, extra = load_library().is_rtx, "rtx" if load_library().is_rtx else "gpu"
    except MissingDependency:  # only ONNX Runtime is installed
        is_rtx, extra = False, "cpu"
    settings: Any = require("polygraphy.config", extra)
    if is_rtx != settings.USE_TENSORRT_RTX and "polygraphy.backend.trt" in sys.modules:
        raise UsageError(f"{VARIABLE} has changed since its first use", "set it before Python starts")
    settings.USE_TENSORRT_RTX = is_rtx
    _redirect(require("polygraphy.logger", extra))
    return require(f"polygraphy.{name}", extra)


@functools.cache
def _redirect(module: Any) -> None:
    """Send the messages of Polygraphy, which it would print, to :data:`MESSAGES`."""
    logger = module.G_LOGGER
    logger.use_python_logging_system, logger.colors, logger.letter = True, False, False
    logger.module_severity = logger.VERBOSE  # the level at which TensorRT reports the memory of an engine
    channel = logging.getLogger("Polygraphy")
    channel.setLevel(logger.VERBOSE)
    channel.propagate = False
    channel.addHandler(MESSAGES)


def make_monitor(notify: Notify | None, name: str) -> Any:
    """Return an ``IProgressMonitor`` that reports a build to ``notify``, at most every :data:`INTERVAL` seconds.

    Ctrl-C stops the build after the current step; ``cancelled`` is then True.
    """
    base: Any = trt.IProgressMonitor

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
