"""TensorRT or TensorRT-RTX on an NVIDIA GPU; :func:`dgkit.engines.trt_library.load_library` chooses between them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dgkit.engines.held_out_calls import read_calls
from dgkit.engines.onnx_export import MODEL, check_export
from dgkit.engines.qdq_graph import check_quantiser, typed_graph
from dgkit.engines.runner import DTYPES, QUANTISED, Runner
from dgkit.engines.store import Engine, EngineStore
from dgkit.engines.trt_build import (
    ENGINE,
    Profile,
    check_device,
    choose_profile,
    describe_profile,
    obtain_engine,
    profiles,
)
from dgkit.engines.trt_library import load_library, on_gpu
from dgkit.engines.trt_session import Session
from dgkit.errors import EngineError


class TrtRunner(Runner):
    """Runs an engine of the store, which is built on first use unless ``rebuild`` is ``never``.

    Uses every option of :class:`~dgkit.engines.runner.BuildOptions` except ``threads``. A call with more samples than
    the largest batch runs in parts. Outputs are new tensors on the GPU in the runner's dtype. With ``device`` ``cpu``
    an engine of TensorRT-RTX can be built (:meth:`prepare`) but not opened.
    """

    dtypes = (*DTYPES, *QUANTISED)
    title = "TensorRT"

    def _setup(self) -> None:
        if self.dtype_name in QUANTISED:
            self.dtype = torch.float16
        self._profiles: tuple[Profile, ...] = profiles(self.network, self.options.batch)
        self._session: Session | None = None

    def check_run(self) -> None:
        """Raise MissingDependency without TensorRT, EngineError without a GPU."""
        load_library()
        if not on_gpu(self.device):
            found = f"the device is {self.device}" if torch.cuda.is_available() else "torch sees no CUDA device"
            hint = "use --device cuda" if torch.cuda.is_available() else "use --engine torch, openvino or ort"
            raise EngineError(f"TensorRT needs an NVIDIA GPU to run engines; {found}", hint)

    def check_build(self) -> None:
        """Raise MissingDependency without the library or the export, EngineError if it needs a GPU to build."""
        check_device(load_library(), self.device, self.options)
        check_export()
        if self.dtype_name in QUANTISED:
            check_quantiser()  # fails before minutes of work, not after

    def prepare(self) -> list[Engine]:
        """Return the engine of the network, built if missing or stale."""
        engine = obtain_engine(
            load_library(),
            self.network,
            self.dtype_name,
            self.device,
            self.options,
            rebuild=self.rebuild,
            notify=self.notify,
        )
        return [engine]

    def held_out(self) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
        """Return inputs and fp32 outputs of the calls that a quantised graph was verified on; None for others."""
        if self.dtype_name not in QUANTISED:
            return None
        return read_calls(typed_graph(self.network, self.dtype_name, self.rebuild, self.notify), self.spec)

    def _open(self) -> None:
        self.check_run()
        library = load_library()
        (engine,) = self.prepare()
        weights = None
        if self.options.strip_weights:
            weights = typed_graph(self.network, self.dtype_name, self.rebuild, self.notify).file(MODEL)
        self._session = Session(
            library,
            engine.file(ENGINE),
            self.device,
            cuda_graph=self.options.cuda_graph,
            weights=weights,
            budget=self.options.weight_budget_gib,
            streaming=self.options.weight_streaming,
            kernels=EngineStore().root / f".{engine.name}.kernels",
        )

    def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self._session is not None
        index, count = self._choose(tensors)
        if count == 1:
            return self._session.run(index, tensors)
        split = {name: value.tensor_split(count) for name, value in tensors.items()}
        parts = [self._session.run(index, {name: split[name][part] for name in split}) for part in range(count)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def free_buffers(self) -> None:
        """Drop the contexts and graphs of all shapes, and their workspace."""
        if self._session is not None:
            self._session.clear()

    def _choose(self, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
        """Return the profile to run with and the number of parts. Raises EngineError if no profile fits the sizes."""
        sizes: dict[str, int] = {}
        for spec in self.spec.inputs:
            sizes.update(zip(spec.shape, tensors[spec.name].shape, strict=True))
        found = choose_profile(self.network, self._profiles, sizes)
        if found is None:
            names = sorted({symbol for profile in self._profiles for symbol in profile if symbol in sizes})
            taken = " or ".join(describe_profile(profile, names) for profile in self._profiles)
            got = ", ".join(f"{name} {sizes[name]}" for name in names)
            raise EngineError(f"{self}: got {got}; the engine supports {taken}", "use --engine torch for other sizes")
        return found

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None
