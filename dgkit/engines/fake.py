"""A runner that calls a function, to test the layers above the runners without a model."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from dgkit.engines.runner import Network, Runner
from dgkit.engines.spec import FIXED_SYMBOLS, network_spec
from dgkit.errors import EngineError


class FakeRunner(Runner):
    """``FakeRunner("denoiser", fn, sizes)`` calls ``fn(**tensors)``, which returns the outputs by name.

    ``sizes`` sets the sizes that a model fixes, such as ``latent_channels``; others are not checked.
    """

    def __init__(self, name: str, fn: Callable[..., dict[str, Tensor]], sizes: Mapping[str, int] | None = None) -> None:
        spec = network_spec(name)
        unknown = set(sizes or {}) - FIXED_SYMBOLS
        if unknown:
            raise EngineError(f"FakeRunner: unknown sizes {sorted(unknown)}; known: {sorted(FIXED_SYMBOLS)}")
        super().__init__(Network(spec, _no_module, lambda: "fake", sizes or {}))
        self._fn = fn

    def _open(self) -> None: ...

    def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._fn(**tensors)

    def _close(self) -> None: ...


def _no_module() -> nn.Module:
    raise EngineError("FakeRunner has no module to load")
