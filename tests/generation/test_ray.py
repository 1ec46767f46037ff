"""A real Ray cluster of this machine: the same folder as one process makes, whatever becomes of an actor."""

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
from tests.scenes import FAST, snapshot

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'dgkit[ray]'")
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # Ray's own, about its next defaults
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray leaves its log files to the collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
COUNT = 8


@pytest.fixture(scope="module")
def settings(micro: Path, labels: Path) -> dict[str, Any]:
    return {"labels": labels, "model": str(micro), "count": COUNT, "style_mix": "uniform", **FAST}


@pytest.fixture(scope="module")
def whole(one_thread: None, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    dgkit.generate(out, **settings)
    return pictures(out)


@pytest.fixture
def ray_of_two() -> Iterator[None]:
    """A cluster of one node that says it has two cores, whatever this machine has."""
    roots = os.pathsep.join(path for path in sys.path if path)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error",
             runtime_env={"env_vars": {"PYTHONPATH": roots}})  # fmt: skip
    yield
    ray.shutdown()


def pictures(out: Path) -> dict[str, bytes]:
    files = snapshot(out)
    del files["config.yaml"]
    return files


def test_an_actor_that_is_killed_costs_nothing_but_time(
    ray_of_two: None, settings: dict[str, Any], whole: dict[str, bytes], tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_one(stage: str, done: float, total: float) -> None:
        if stage == "generate" and done > 0 and not killed:
            states = [state for state in list_actors() if state["pid"]]
            killed.append(states[0]["pid"])
            os.kill(killed[0], signal.SIGKILL)

    told: list[str] = []
    result = dgkit.generate(tmp_path / "out", ray="auto", workers=2, progress=kill_one, notify=told.append, **settings)
    assert told == ["2 Ray actors on 1 nodes, on the CPU"]
    assert len(killed) == 1 and result.written == COUNT
    assert pictures(tmp_path / "out") == whole
    assert ray.is_initialized()  # the cluster was there before the run, and stays


def list_actors() -> list[dict[str, Any]]:
    """Live actors with the numbers of their processes."""
    from ray._private.state import actors

    return [{"pid": actor["Pid"]} for actor in actors().values() if actor["State"] == "ALIVE"]


@pytest.mark.slow  # a cluster takes half a minute to start
def test_a_cluster_of_its_own_is_started_and_ended(
    settings: dict[str, Any], whole: dict[str, bytes], tmp_path: Path
) -> None:
    dgkit.generate(tmp_path / "out", ray="local", workers=2, **settings)
    assert pictures(tmp_path / "out") == whole
    assert not ray.is_initialized()


@pytest.mark.slow  # a cluster takes half a minute to start
def test_more_workers_than_the_cluster_has_cores_are_refused(
    ray_of_two: None, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="3 workers on a cluster of 2 CPU cores"):
        dgkit.generate(tmp_path / "out", ray="auto", workers=3, **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # a cluster takes half a minute to start
def test_an_error_in_an_actor_is_the_error_of_the_run(
    ray_of_two: None, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "Drawer", Broken)
    with pytest.raises(EngineError, match="too hot") as caught:
        dgkit.generate(tmp_path / "out", ray="auto", workers=1, **settings)
    assert caught.value.hint == "open a window"


class Broken(cluster.Drawer):
    def draw(self, block: Any) -> Any:
        raise EngineError("too hot", "open a window")


def test_no_cluster_is_told(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no Ray cluster at '127\.0\.0\.1:1'") as caught:
        dgkit.generate(tmp_path / "out", ray="127.0.0.1:1", **settings)
    assert "ray start --head" in caught.value.hint
