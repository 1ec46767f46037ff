"""The status of an engine before and after a build: its state, its size, and which error it reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dgkit.engines.build_plan import EngineStatus, build, first_problem, inspect, planned_action
from dgkit.engines.onnx_export import graph_key
from dgkit.engines.runner import Network
from dgkit.engines.store import Engine, EngineStore
from dgkit.engines.torch_runner import TorchRunner
from dgkit.errors import EngineError, OutputError
from tests.models import random_networks


class Quick(TorchRunner):
    """Stores a graph, or an engine built from it if ``backend`` is not ``onnx``."""

    backend = "onnx"
    failure: Exception | None = None

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.notes: dict[str, Any] = {"error": {"condition": 1e-6, "other": 3e-6}}

    def prepare(self) -> list[Engine]:
        key = graph_key(self.network).model_copy(update={"backend": self.backend})
        return [EngineStore().obtain(key, self._build, rebuild=self.rebuild, model=self.network.model)]

    def _build(self, folder: Path) -> dict[str, Any]:
        if self.failure:
            raise self.failure
        (folder / "file").write_bytes(b"12345")
        return self.notes


@pytest.fixture()
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Quick:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    return Quick(random_networks("tiny")["condition"])


def test_inspect_changes_nothing(runner: Quick) -> None:
    runner.rebuild = "always"
    outcome = inspect("condition", "ort", runner)
    assert outcome.state == "missing" and outcome.hint.startswith("dgkit build-engines --random tiny --engine ort ")
    assert runner.rebuild == "always" and not EngineStore().root.exists()
    assert inspect("condition", "torch", TorchRunner(runner.network)).state == "none needed"


def test_errors_of_engines_and_graphs(runner: Quick) -> None:
    graph = build("condition", "ort", runner)
    assert (graph.state, graph.size, graph.error, graph.error_of) == ("built", 5, 3e-6, "engine")
    assert inspect("condition", "ort", runner).error == 3e-6
    other = Quick(runner.network)
    other.backend, other.notes = "openvino", {}
    assert build("condition", "openvino", other).error == 3e-6  # that of the graph of the same network and dtype
    named = Quick(runner.network)
    named.backend, named.notes, named.dtype_name = "rtx", {"graph": graph.engines[0].name}, "bf16"
    outcome = build("condition", "trt", named)
    assert (outcome.error, outcome.error_of) == (3e-6, "graph")
    named.backend, named.notes = "trt", {"graph": "elsewhere"}
    assert build("condition", "trt", named).error is None


def test_failures(runner: Quick) -> None:
    runner.failure = EngineError("no", "try something")
    outcome = build("condition", "ort", runner)
    assert (outcome.state, outcome.reason, outcome.hint) == ("failed", "no", "try something")
    problem = first_problem([EngineStatus("a", "ort", "fp32", "cpu", "ready"), outcome])
    assert problem is not None and (problem.message, problem.hint) == ("no", "try something")
    assert first_problem([EngineStatus("a", "ort", "fp32", "cpu", "built")]) is None
    runner.failure = OutputError("full")
    with pytest.raises(OutputError, match="full"):  # the next network would fail, too
        build("condition", "ort", runner)


def test_planned_actions() -> None:
    states = {state: EngineStatus("a", "ort", "fp32", "cpu", state) for state in ("ready", "missing", "none needed")}
    found = {
        (policy, state): planned_action(policy, states[state])
        for policy in ("never", "auto", "always")
        for state in states
    }
    assert {key for key, text in found.items() if text == "would be built"} == {
        ("auto", "missing"), ("always", "missing"), ("always", "ready"),
    }  # fmt: skip
    assert found["never", "missing"] == "would be refused" and found["always", "none needed"] == "nothing to build"
