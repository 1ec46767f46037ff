"""The status of an engine before and after a build: its state, its size, and which error it reports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dgkit.engines.build_plan import EngineStatus, build, build_all, first_problem, inspect, planned_action
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


@pytest.fixture()
def runners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Quick]:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    found = random_networks("tiny")
    return {name: Quick(found[name]) for name in ("condition", "denoiser", "vae_decoder")}


def test_missing_engines_are_one_step_with_the_longest_build_first(runners: dict[str, Quick]) -> None:
    runners["condition"].prepare()
    reports: list[tuple[float, float, str]] = []
    released: list[bool] = []

    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        assert stage == "engines"
        reports.append((done, total, note))

    found = build_all(runners, progress, release=lambda: released.append(True))
    assert [(status.network, status.state) for status in found] == [
        ("condition", "ready"), ("denoiser", "built"), ("vae_decoder", "built"),
    ]  # fmt: skip
    assert reports[0] == (0, 2, "PyTorch denoiser, about 20 s left") and len(released) == 2
    assert reports[1][:2] == (1, 2) and reports[1][2].startswith("PyTorch vae_decoder, about 5 s")
    assert reports[2][:2] == (2, 2) and len(reports) == 3
    assert [status.state for status in build_all(runners, progress)] == ["ready"] * 3 and len(reports) == 3


def test_nothing_is_built_if_one_backend_cannot_build(runners: dict[str, Quick]) -> None:
    def refuse() -> None:
        raise EngineError("no GPU", "use --engine torch")

    vars(runners["vae_decoder"])["check_build"] = refuse
    with pytest.raises(EngineError, match="no GPU"):
        build_all(runners)
    assert not EngineStore().root.exists()


def test_a_second_process_builds_the_short_ones(runners: dict[str, Quick], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    @contextlib.contextmanager
    def helper(names: Sequence[str]) -> Iterator[bool]:
        asked.append(tuple(names))
        for name in names:
            runners[name].prepare()
        yield True

    build_all(runners, helper=helper)
    assert asked == []  # these builds use all cores
    monkeypatch.setattr(Quick, "one_core_builds", True)
    for runner in runners.values():
        EngineStore().remove(runner.prepare()[0].name)
    assert [status.state for status in build_all(runners, helper=helper)] == ["built"] * 3
    assert asked == [("condition", "vae_decoder")]
    build_all(runners, helper=helper)
    assert len(asked) == 1


def test_never_builds_nothing(runners: dict[str, Quick]) -> None:
    for runner in runners.values():
        runner.rebuild = "never"
    problem = first_problem(build_all(runners))
    assert problem is not None and "there is no onnx engine" in problem.message
