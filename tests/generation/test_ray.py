"""A real Ray cluster on this machine makes the same folder as one process, even if an actor dies."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dgkit
from dgkit.errors import EngineError, UsageError
from dgkit.generation import cluster
from tests.scenes import snapshot

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'dgkit[ray]'")
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # Ray's own, about its next defaults
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray does not close its log files
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
COUNT = 8


@pytest.fixture
def ray_of_two() -> Iterator[None]:
    """A cluster of one node that claims two cores, whatever this machine has."""
    roots = os.pathsep.join(path for path in sys.path if path)
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error",
             runtime_env={"env_vars": {"PYTHONPATH": roots}})  # fmt: skip
    signal.signal(signal.SIGTERM, handler)  # Ray installs one of its own
    yield
    ray.shutdown()


def test_a_killed_actor_changes_no_file(
    ray_of_two: None, settings: dict[str, Any], whole: dict[str, bytes], tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_one(stage: str, done: float, total: float) -> None:
        if stage == "generate" and done > 0 and not killed:
            states = [state for state in list_actors() if state["pid"]]
            killed.append(states[0]["pid"])
            os.kill(killed[0], signal.SIGKILL)

    notes: list[str] = []
    result = dgkit.generate(
        tmp_path / "out", progress=kill_one, notify=notes.append, **settings | {"ray": "auto", "workers": 2}
    )
    assert notes == ["2 Ray actors on 1 nodes, on the CPU"]
    assert len(killed) == 1 and result.written == COUNT
    assert snapshot(tmp_path / "out", skip="config.yaml") == whole
    assert ray.is_initialized()  # the cluster was running before, and still is


def list_actors() -> list[dict[str, Any]]:
    """Return live actors with their process ids."""
    from ray._private.state import actors

    return [{"pid": actor["Pid"]} for actor in actors().values() if actor["State"] == "ALIVE"]


@pytest.mark.slow  # a cluster takes half a minute to start
def test_a_local_cluster_is_started_and_shut_down(
    settings: dict[str, Any], whole: dict[str, bytes], tmp_path: Path
) -> None:
    dgkit.generate(tmp_path / "out", **settings | {"ray": "local", "workers": 2})
    assert snapshot(tmp_path / "out", skip="config.yaml") == whole
    assert not ray.is_initialized()


@pytest.mark.slow  # a cluster takes half a minute to start
def test_more_workers_than_cores_of_the_cluster_are_refused(
    ray_of_two: None, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="3 workers on a cluster of 2 CPU cores"):
        dgkit.generate(tmp_path / "out", **settings | {"ray": "auto", "workers": 3})
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # a cluster takes half a minute to start
def test_an_error_in_an_actor_is_the_error_of_the_run(
    ray_of_two: None, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "GeneratorActor", Broken)
    with pytest.raises(EngineError, match="too hot") as caught:
        dgkit.generate(tmp_path / "out", **settings | {"ray": "auto", "workers": 1})
    assert caught.value.hint == "open a window"


class Broken(cluster.GeneratorActor):
    def generate(self, block: Any) -> Any:
        raise EngineError("too hot", "open a window")


def test_an_unreachable_cluster_is_an_error(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no Ray cluster at '127\.0\.0\.1:1'") as caught:
        dgkit.generate(tmp_path / "out", ray="127.0.0.1:1", **settings)
    assert "ray start --head" in caught.value.hint
