"""Packages of AOTInductor: each network compiled once to machine code, kept in the engine store, loaded in seconds.

See the PyTorch documentation, "AOTInductor: Ahead-Of-Time Compilation for Torch.Export-ed Models". A CPU needs a C++
compiler for the build, a GPU also Triton; running needs neither.
"""

import copy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
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
from dgkit.engines.store import Engine, EngineStore, rebuild_command
from dgkit.engines.torch_runner import as_tuple, graphed, on_device, place
from dgkit.errors import DgkitError, EngineError
from dgkit.optional import first_line

PACKAGE = "model.pt2"
_AUTOTUNE_FROM = 4  # optimisation level
_PROBE = "void* probe() { return ::operator new(1); }"
_CXX_LIBRARIES = (b"libstdc++.so", b"libc++.so")


class CompileRunner(Runner):
    """Runs the package, built on first use unless ``rebuild`` is ``never``; ``notify`` is told of it.

    Outputs are fresh tensors in the runner's dtype. Of the options, ``optimisation_level`` 4 and 5 let the compiler
    time several kernels for each matrix product; ``threads`` and ``cuda_graph`` count as for
    :class:`~dgkit.engines.torch_runner.TorchRunner`.
    """

    def prepare(self) -> list[Engine]:
        key = engine_key(self)
        store, model = EngineStore(), self.network.model
        return [store.obtain(key, self._build, rebuild=self.rebuild, model=model, notify=self.notify)]

    def _build(self, folder: Path) -> dict[str, Any]:
        module = cast(_rounded(self.network.load(), self.dtype), self.device, self.dtype)
        try:
            with torch.no_grad(), on_device(self), quiet_exporter():
                _compile(self, module, folder)
                return {"error": self._verify(module, folder / PACKAGE)}
        except (OSError, DgkitError):  # a full disk, and what is explained already
            raise
        except Exception as error:  # the compiler raises a dozen unrelated classes
            raise EngineError(f"{self}: cannot be compiled: {first_line(error)}", "use --engine torch") from error

    def _verify(self, module: nn.Module, path: Path) -> dict[str, float]:
        """Error of each output of the package against the module in the same dtype."""
        inputs = [_packed(place(self, tensor)) for tensor in check_inputs(self.network).values()]
        expected, errors = as_tuple(module(*inputs)), {}
        found = _load(path, self.device)(*inputs)
        for spec, value, wanted in zip(self.spec.outputs, found, expected, strict=True):
            error = relative_error(value.float().cpu().numpy(), wanted.float().cpu().numpy())
            errors[spec.name] = error
            if not error <= TOLERANCES[self.dtype_name]:
                raise EngineError(f"{self}: {spec.name} of the package is off by {error:.1e} from PyTorch")
        return errors

    def _open(self) -> None:
        (engine,) = self.prepare()
        path = engine.file(PACKAGE)
        try:
            package = _load(path, self.device)
        except RuntimeError as error:
            hint = rebuild_command(engine.key, self.network.model)
            raise EngineError(f"{path} cannot be opened: {first_line(error)}", hint) from error
        with on_device(self):
            self._call: Callable[..., Sequence[Tensor]] | None = graphed(self, package)

    def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self._call is not None
        arguments = [_packed(place(self, tensor)) for tensor in tensors.values()]
        with torch.inference_mode(), on_device(self):
            results = self._call(*arguments)
        return {spec.name: value for spec, value in zip(self.spec.outputs, results, strict=True)}

    def _close(self) -> None:
        self._call = None


def engine_key(runner: Runner) -> EngineKey:
    """Key of a package: network, dtype, device and version of torch."""
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
    """Settings of the compiler: on a CPU constants are folded and weights packed into the layout of its kernels.

    On a GPU the C++ that launches the kernels is not optimised: to compile it takes long, and a graph replays them.
    """
    on_cpu = runner.device.type == "cpu"
    return {
        "freezing": on_cpu,
        "cpp.dynamic_threads": on_cpu,  # else the number of threads at the time of the build is part of the code
        "max_autotune": (runner.options.optimisation_level or 0) >= _AUTOTUNE_FROM,
        **({} if on_cpu else {"aot_inductor.compile_wrapper_opt_level": "O0"}),
    }


def _check_compiler() -> None:
    """EngineError for a C++ compiler that copies its standard library into what it links. Beside the one that PyTorch
    has loaded, the copy in a package crashes the process: in ``std::regex``, by which it reads the name of its device.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    compiler = get_cpp_compiler()
    if sys.platform != "linux":
        return
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "probe.so"
        command = [compiler, "-shared", "-fPIC", "-x", "c++", "-", "-o", str(library)]
        done = subprocess.run(command, input=_PROBE, capture_output=True, text=True)
        # The names of the libraries that it needs are text in the file. Where the probe fails the build says why.
        if done.returncode or any(name in library.read_bytes() for name in _CXX_LIBRARIES):
            return
    hint = "set CXX to a compiler that links libstdc++.so, such as CXX=/usr/bin/g++"
    raise EngineError(f"packages that {compiler} links hold a copy of the C++ library, and crash", hint)


def _compile(runner: Runner, module: nn.Module, folder: Path) -> None:
    from torch._inductor.utils import fresh_cache

    _check_compiler()
    inputs = tuple(_packed(place(runner, tensor)) for tensor in example_inputs(runner.network).values())
    program = torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes(runner.spec))
    with fresh_cache(dir=str(folder)):  # gigabytes of intermediate files would stay in the user's own
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(folder / PACKAGE), inductor_configs=dict(_settings(runner))
        )


def _rounded(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in ``dtype``; ``module`` may be what the next engine is built from, so it keeps its weights."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        value = tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()
        memo[id(tensor)] = nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value
    return copy.deepcopy(module, memo)  # takes the weights from memo: never two copies in the old type


def _load(path: Path, device: torch.device) -> Callable[..., Sequence[Tensor]]:
    """The package as a function of tensors.

    This is the loader behind ``torch._inductor.aoti_load_package``, which imports the compiler first: 2 s, and nearly a
    minute where cores are slow. It takes no locks between threads, which a CUDA graph cannot record: one runner is not
    called by two at once.
    """
    if device.type == "cuda":
        torch.cuda.init()  # the loader takes it for granted
    index = -1 if device.index is None else device.index
    loader: Any = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", True, 1, index)
    return lambda *tensors: tuple(loader.run(list(tensors)))


def _packed(tensor: Tensor) -> Tensor:
    """Compiled kernels take strides and alignment of a fresh tensor for granted; a slice or a view may lack both."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 64 == 0 else tensor.clone()
