"""A session without a GPU: contexts, workspace, casts and errors, with an engine that computes on the CPU.

The stand-in reads and writes tensors by their addresses, as the library does; the engine doubles its input.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dgkit.engines import trt_session
from dgkit.engines.trt_library import Messages, TrtLibrary
from dgkit.engines.trt_session import CONTEXTS, Session
from dgkit.errors import EngineError

CPU = torch.device("cpu")


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.shape, self.addresses, self.workspace = engine, (0,), dict[str, int](), (0, 0)
        self.profile = -1

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return profile < 2

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return shape[0] <= 64

    def infer_shapes(self) -> list[str]:
        return []

    def update_device_memory_size_for_shapes(self) -> int:
        return 100 * self.shape[0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_device_memory(self, address: int, size: int) -> None:
        self.workspace = address, size

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return False

    def execute_async_v3(self, stream: int) -> bool:
        assert self.workspace[1] >= 100 * self.shape[0] or self.engine.strategy == "ON_PROFILE_CHANGE"
        assert self.addresses.keys() == {"latents", "image"}
        self.engine.runs.append(self)
        count = int(torch.tensor(self.shape).prod())
        kind = ctypes.c_float * count
        source, target = (kind.from_address(self.addresses[name]) for name in ("latents", "image"))
        for index in range(count):
            target[index] = 2 * source[index]
        return not self.engine.broken


class Engine:
    num_io_tensors = 2
    streamable_weights_size = 5 << 30

    def __init__(self) -> None:
        self.strategy, self.weight_streaming_budget_v2 = "USER_MANAGED", -1
        self.made, self.runs, self.broken = list[Context](), list[Context](), False

    def get_tensor_name(self, index: int) -> str:
        return ("latents", "image")[index]

    def get_tensor_dtype(self, name: str) -> str:
        return "FLOAT"

    def get_weight_streaming_automatic_budget(self) -> int:
        return 3 << 30

    def create_execution_context(self, strategy: Any) -> Context:
        assert strategy == self.strategy
        self.made.append(Context(self))
        return self.made[-1]


class Stream:
    cuda_stream = 7

    def __init__(self, *_: Any) -> None:
        self.waits = 0

    def wait_stream(self, other: Any) -> None:
        self.waits += 1

    def synchronize(self) -> None: ...


@pytest.fixture()
def engine() -> Engine:
    return Engine()


@pytest.fixture()
def library(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> TrtLibrary:
    messages = Messages()

    class Runtime:
        def __init__(self, logger: Any) -> None:
            assert logger == "logger"

        def deserialize_cuda_engine(self, content: Any) -> Engine | None:
            if bytes(content[:4]) == b"good":
                return engine
            messages.errors += ["no engine\nof ours", "and more"]
            return None

    kinds = SimpleNamespace(FLOAT="FLOAT", HALF="HALF", BF16="BF16", INT32="INT32", INT64="INT64")
    strategies = SimpleNamespace(USER_MANAGED="USER_MANAGED", ON_PROFILE_CHANGE="ON_PROFILE_CHANGE")
    module = SimpleNamespace(Runtime=Runtime, DataType=kinds, ExecutionContextAllocationStrategy=strategies)
    monkeypatch.setattr(trt_session, "trt", module)
    monkeypatch.setattr(TrtLibrary, "logger", "logger")
    return TrtLibrary("trt", module, messages)


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_session.torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(trt_session.torch.cuda, "Stream", Stream)
    monkeypatch.setattr(trt_session.torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(trt_session.torch.cuda, "synchronize", lambda device: None)


@pytest.fixture()
def session(library: TrtLibrary, tmp_path: Path) -> Iterator[Session]:
    file = tmp_path / "model.engine"
    file.write_bytes(b"good engine")
    opened = Session(library, file, CPU, cuda_graph=True, weights=None, kernels=tmp_path / "kernels")
    yield opened
    opened.close()


def latents(batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, generator=torch.Generator().manual_seed(batch))


def test_outputs_are_new_and_inputs_are_cast(session: Session) -> None:
    for value in (latents(2), latents(2).half(), latents(3).T.contiguous().T, latents(4)[::2]):
        found = session.run(0, {"latents": value})["image"]
        assert torch.equal(found, 2 * value.float())
    first = session.run(0, {"latents": latents(2)})["image"]
    kept = first.clone()
    session.run(0, {"latents": latents(2) + 1})
    assert torch.equal(first, kept)


def test_a_context_for_each_set_of_shapes(session: Session, engine: Engine) -> None:
    for batch in (2, 5, 2, 5):
        session.run(0, {"latents": latents(batch)})
    session.run(1, {"latents": latents(5)})
    assert [(context.profile, context.shape[0]) for context in engine.made] == [(0, 2), (0, 5), (0, 2), (1, 5)]
    assert (
        len({id(context) for context in engine.runs}) == 4
    )  # the workspace grew once, so the first one was created again


def test_all_contexts_share_the_workspace(session: Session, engine: Engine) -> None:
    for batch in (8, 4, 2):
        session.run(0, {"latents": latents(batch)})
    assert {context.workspace for context in engine.made} == {engine.made[0].workspace}
    assert engine.made[0].workspace[1] == 800


def test_no_more_contexts_than_allowed(session: Session, engine: Engine) -> None:
    for batch in range(CONTEXTS + 1, 0, -1):
        session.run(0, {"latents": latents(batch)})
    assert len(session._plans) == CONTEXTS
    session.run(0, {"latents": latents(1)})
    assert len(engine.made) == CONTEXTS + 1
    session.run(0, {"latents": latents(CONTEXTS + 1)})  # the one that was dropped
    assert len(engine.made) == CONTEXTS + 2


def test_errors(session: Session, engine: Engine, library: TrtLibrary, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"does not support inputs of shape \{'latents': \[65, 3\]\}"):
        session.run(0, {"latents": latents(65)})
    with pytest.raises(EngineError, match="does not support inputs"):
        session.run(2, {"latents": latents(1)})
    engine.broken = True
    library.messages.errors.append("out of memory")
    with pytest.raises(EngineError, match="the engine failed: out of memory"):
        session.run(0, {"latents": latents(1)})
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"something else")
    with pytest.raises(EngineError, match=r"foreign cannot be run on this GPU: no engine of ours$"):
        Session(library, foreign, CPU, cuda_graph=False, weights=None, kernels=tmp_path / "kernels")


@pytest.mark.parametrize(("budget", "bytes_on_gpu"), [(None, 3 << 30), (0.5, 1 << 29), (64, 5 << 30), (0, 0)])
def test_streamed_weights_leave_the_workspace_to_the_library(
    library: TrtLibrary, engine: Engine, tmp_path: Path, budget: float | None, bytes_on_gpu: int
) -> None:
    file = tmp_path / "model.engine"
    file.write_bytes(b"good engine")
    engine.strategy = "ON_PROFILE_CHANGE"
    session = Session(
        library, file, CPU, cuda_graph=True, weights=None, kernels=tmp_path / "kernels", streaming=True, budget=budget
    )
    assert engine.weight_streaming_budget_v2 == bytes_on_gpu
    latents = torch.ones(2, 3)
    assert torch.equal(session.run(0, {"latents": latents})["image"], 2 * latents)
    assert engine.made[0].workspace == (0, 0)  # none of ours
    session.close()
