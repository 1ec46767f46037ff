"""AOTInductor packages: each network compiled once to machine code, kept in the engine store, loaded in seconds.

See the PyTorch documentation, "AOTInductor: Ahead-Of-Time Compilation for Torch.Export-ed Models". A build needs a C++
compiler, for a GPU also Triton. Running a package needs neither.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgkit.engines.machine import backend_version, device_facts
from dgkit.engines.modules import cast
from dgkit.engines.onnx_export import (
    TOLERANCES,
    check_inputs,
    dynamic_shapes,
    example_inputs,
    graph_key,
    quiet_exporter,
    relative_error,
)
from dgkit.engines.runner import Runner
from dgkit.engines.sidecar import EngineKey
from dgkit.engines.store import Engine, EngineStore
from dgkit.engines.torch_runner import TensorFunction, TorchRunner, as_tuple, graphed, on_device
from dgkit.engines.typed import copy_in_dtype
from dgkit.errors import DgkitError, EngineError
from dgkit.optional import first_line

PACKAGE = "model.pt2"
_AUTOTUNE_FROM = 4  # optimisation level
_PROBE = "void* probe() { return ::operator new(1); }"
_CXX_LIBRARIES = (b"libstdc++.so", b"libc++.so")


class CompileRunner(TorchRunner):
    """Runs a package, which is built on first use unless ``rebuild`` is ``never``; ``notify`` reports a build.

    Outputs are new tensors in the runner's dtype. Options used: ``optimisation_level`` 4 and 5 let the compiler time
    several kernels for each matrix product; ``threads`` and ``cuda_graph`` as for :class:`TorchRunner`.
    """

    title = "AOTInductor"

    def check_build(self) -> None:
        """Raise EngineError if there is no C++ compiler, or one that makes packages that crash."""
        try:
            _check_compiler()
        except RuntimeError as error:
            hint = "install one, such as g++, or use --engine openvino or torch"
            raise EngineError(f"engine 'compile' needs a C++ compiler: {first_line(error)}", hint) from error

    def prepare(self) -> list[Engine]:
        """Return the package of the network, built if missing or stale."""
        key = engine_key(self)
        store, model = EngineStore(), self.network.model
        return [store.obtain(key, self._build, rebuild=self.rebuild, model=model, notify=self.notify)]

    def _build(self, folder: Path) -> dict[str, Any]:
        # Of a copy: the module may be the source of the next engine, so its weights must not be rounded.
        module = cast(copy_in_dtype(self.network.load(), self.dtype), self.device, self.dtype)
        try:
            with torch.no_grad(), on_device(self), quiet_exporter():
                _compile(self, module, folder)
                return {"error": self._verify(module, folder / PACKAGE)}
        except (OSError, DgkitError):  # a full disk, or an error with its own explanation
            raise
        except Exception as error:  # the compiler raises a dozen unrelated classes
            raise EngineError(f"{self}: compilation failed: {first_line(error)}", "use --engine torch") from error

    def _verify(self, module: nn.Module, path: Path) -> dict[str, float]:
        """Return the relative error of each output of the package against the module in the same dtype."""
        inputs = self.place(check_inputs(self.network)).values()
        expected, errors = as_tuple(module(*inputs)), {}
        found = _load(path, self.device)(*inputs)
        for spec, value, wanted in zip(self.spec.outputs, found, expected, strict=True):
            error = relative_error(value.float().cpu().numpy(), wanted.float().cpu().numpy())
            errors[spec.name] = error
            if not error <= (tolerance := TOLERANCES[self.dtype_name]):
                raise EngineError(
                    f"{self}: output {spec.name} of the package differs from PyTorch by {error:.1e} (relative L2 "
                    f"error); at most {tolerance:.0e} is allowed",
                    "use --engine torch",
                )
        return errors

    def _open(self) -> None:
        (engine,) = self.prepare()
        path = engine.file(PACKAGE)
        try:
            package = _load(path, self.device)
        except RuntimeError as error:
            raise self._not_opened(engine, path, error) from error
        with on_device(self):
            self._call = graphed(self, package)

    def place(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors on the runner's device and in its dtype, in contiguous, aligned memory.

        Compiled kernels rely on the strides and the alignment of a new tensor; a slice or a view may have others.
        """
        placed = {name: tensor.contiguous() for name, tensor in super().place(tensors).items()}
        return {name: value if value.data_ptr() % 64 == 0 else value.clone() for name, value in placed.items()}


def engine_key(runner: Runner) -> EngineKey:
    """Return the key of a package, over network, dtype, device and version of torch."""
    graph = graph_key(runner.network)
    return graph.model_copy(
        update={
            "dtype": runner.dtype_name,
            "graph": {},
            "backend": "compile",
            "backend_version": backend_version("compile"),
            "versions": {name: graph.versions[name] for name in ("torch", "diffusers", "transformers")},
            "device": device_facts(str(runner.device)),
            "flags": dict(_settings(runner)),
        }
    )


def _settings(runner: Runner) -> dict[str, bool | str]:
    """Return the settings of the compiler.

    On a CPU constants are folded and weights are packed into the layout of the kernels. On a GPU the C++ code that
    launches kernels is not optimised: that would take long to compile, and a CUDA graph replays the launches anyway.
    """
    on_cpu = runner.device.type == "cpu"
    return {
        "freezing": on_cpu,
        "cpp.dynamic_threads": on_cpu,  # otherwise the code contains the number of threads at build time
        "max_autotune": (runner.options.optimisation_level or 0) >= _AUTOTUNE_FROM,
        **({} if on_cpu else {"aot_inductor.compile_wrapper_opt_level": "O0"}),
    }


def _check_compiler() -> None:
    """Raise EngineError if the C++ compiler links its standard library statically.

    Such a package carries a second copy of the library that PyTorch has loaded, and crashes the process: in
    ``std::regex``, which parses the device name.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    compiler = get_cpp_compiler()
    if sys.platform != "linux":
        return
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "probe.so"
        command = [compiler, "-shared", "-fPIC", "-x", "c++", "-", "-o", str(library)]
        done = subprocess.run(command, input=_PROBE, capture_output=True, text=True)
        # A linked file names its libraries as text. If the probe itself fails, the build will report why.
        if done.returncode or any(name in library.read_bytes() for name in _CXX_LIBRARIES):
            return
    hint = "set CXX to a compiler that links libstdc++.so, such as CXX=/usr/bin/g++"
    raise EngineError(f"the compiler {compiler} links the C++ library statically, and such packages crash", hint)


def _compile(runner: Runner, module: nn.Module, folder: Path) -> None:
    from torch._inductor.utils import fresh_cache

    _check_compiler()
    inputs = tuple(runner.place(example_inputs(runner.network)).values())
    program = torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes(runner.spec))
    with fresh_cache(dir=str(folder)):  # otherwise gigabytes of intermediate files stay in the user's cache
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(folder / PACKAGE), inductor_configs=dict(_settings(runner))
        )


def _load(path: Path, device: torch.device) -> TensorFunction:
    """Return the package as a function of tensors. Two threads must not call it at once.

    This is the loader behind ``torch._inductor.aoti_load_package``, which would import the compiler first: that takes
    2 s, and nearly a minute on slow cores. The loader takes no locks, because a CUDA graph cannot record them.
    """
    if device.type == "cuda":
        torch.cuda.init()  # the loader relies on it
    index = -1 if device.index is None else device.index
    loader: Any = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", True, 1, index)
    return lambda *tensors: tuple(loader.run(list(tensors)))
