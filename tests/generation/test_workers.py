"""Several processes make the same folder as one, whatever becomes of them."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dgkit
from dgkit.errors import DgkitError, EngineError
from dgkit.generation import split, workers
from dgkit.generation.blocks import Block, Maker, blocks, encode_all, tasks, total
from dgkit.generation.flow import Tally
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.worker import Failed, Made, Ready, Setup, Share
from tests.scenes import FAST, snapshot

if sys.platform == "win32":
    pytest.skip("workers talk over inherited sockets", allow_module_level=True)

COUNT = 7  # four blocks, the last of one image


@pytest.fixture(scope="module")
def settings(micro: Path, labels: Path) -> dict[str, Any]:
    return {"labels": labels, "model": str(micro), "count": COUNT, "style_mix": "uniform", **FAST}


@pytest.fixture(scope="module")
def whole(one_thread: None, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that one process makes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    dgkit.generate(out, **settings)
    return pictures(out)


def pictures(out: Path) -> dict[str, bytes]:
    """Everything but the settings, which say how many workers there were."""
    files = snapshot(out)
    del files["config.yaml"]
    return files


def test_two_workers_make_what_one_process_makes_even_if_one_is_killed(
    settings: dict[str, Any], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    real = workers.start

    def note(setup: Setup) -> Any:
        connection, process = real(setup)
        started.append(process.pid)
        return connection, process

    monkeypatch.setattr(workers, "start", note)
    told: list[str] = []
    heard: list[float] = []
    killed: list[int] = []

    def kill_one(stage: str, done: float, of: float) -> None:
        if stage == "generate":
            heard.append(done)
            if done > 0 and not killed:
                killed.append(started[0])
                os.kill(started[0], signal.SIGKILL)

    out = tmp_path / "out"
    result = dgkit.generate(out, workers=2, progress=kill_one, notify=told.append, **settings)
    assert result.written == COUNT
    assert len(killed) == 1 and len(started) == 3
    assert len(told) == 1 and told[0].startswith("worker 1 was killed") and "made once more" in told[0]
    assert pictures(out) == whole
    assert heard == sorted(heard) and heard[-1] == COUNT
    assert any(done % 1 for done in heard)  # not only when a block is there


def test_an_error_of_a_worker_is_the_error_of_the_run(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device of the settings is looked at by each worker: a model that is gone by then is an error of theirs."""
    real = workers.start

    def elsewhere(setup: Setup) -> Any:
        return real(Setup(setup.config.model_copy(update={"model": str(tmp_path / "gone")}), 1, ()))

    monkeypatch.setattr(workers, "start", elsewhere)
    with pytest.raises(DgkitError, match="gone") as caught:
        dgkit.generate(tmp_path / "out", workers=1, **settings)
    assert caught.value.hint
    assert "in a worker process" in caught.value.__notes__[0]
    assert not (tmp_path / "out").exists()


class Script:
    """Stands in for worker processes: a connection that says what it is told to, and then is dead."""

    def __init__(self, *messages: object) -> None:
        self.messages, self.sent, self.returncode = list(messages), [], -signal.SIGKILL

    def recv(self) -> object:
        if not self.messages:
            raise EOFError
        return self.messages.pop(0)

    def send(self, message: object) -> None:
        self.sent.append(message)

    def close(self) -> None:
        pass


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> list[Script]:
    """Connections of the workers to come, in the order of their start."""
    queue: list[Script] = []

    def start(setup: Setup) -> Any:
        script = queue.pop(0)
        return script, script

    monkeypatch.setattr(workers, "start", start)
    monkeypatch.setattr(workers, "stop", lambda process, connection: None)
    monkeypatch.setattr(workers, "wait", lambda scripts: [script for script in scripts if script.messages] or scripts)
    return queue


def block(start: int, *wanted: int) -> Block:
    class Named:
        index = start

    return Block((Named(),), wanted or (start,))  # type: ignore[arg-type]


def pool(count: int, tell: Callable[..., None] = lambda block, share: None) -> workers.WorkerPool:
    return workers.WorkerPool([Setup(GenerateConfig(), 1, ())] * count, tell)


def test_a_block_goes_to_the_worker_with_least_to_do(scripts: list[Script]) -> None:
    first, second = Script(Ready(), Made(0, [])), Script(Ready())
    scripts += [first, second]
    told: list[tuple[int, float]] = []
    with pool(2, lambda block, share: told.append((block.start, share))) as crew:
        assert crew.capacity == 4
        for number in range(3):
            crew.submit(block(number))
        assert [b.start for b in first.sent] == [0, 2] and [b.start for b in second.sent] == [1]
        first.messages.insert(1, Share(0, 0.5))
        made, packed = crew.fetch()
    assert (made.start, packed(), told) == (0, [], [(0, 0.5)])


def test_a_dead_workers_blocks_go_to_its_successor(scripts: list[Script]) -> None:
    heir = Script(Ready(), Made(4, []), Made(6, []))
    scripts += [Script(Ready()), heir]
    with pool(1) as crew:
        for number in (4, 6):
            crew.submit(block(number))
        assert [crew.fetch()[0].start for _ in range(2)] == [4, 6]
    assert [b.start for b in heir.sent] == [4, 6]


@pytest.mark.parametrize(("message", "when"), [((Ready(),), "at image 4"), ((), "before it was ready")])
def test_what_kills_every_worker_ends_the_run(scripts: list[Script], message: tuple[Any, ...], when: str) -> None:
    scripts += [Script(*message) for _ in range(workers.MAX_DEATHS)]
    with pool(1) as crew:
        crew.submit(block(4))
        with pytest.raises(EngineError, match=f"was killed .* {when}, 3 times in a row") as caught:
            crew.fetch()
    assert "--workers" in caught.value.hint
    assert scripts == []


def test_deaths_of_other_blocks_do_not_add_up(scripts: list[Script]) -> None:
    scripts += [Script(Ready()), *(Script(Ready(), Made(number, [])) for number in range(5))]
    with pool(1) as crew:
        for number in range(5):
            crew.submit(block(number))
            assert crew.fetch()[0].start == number


def test_errors_cross_with_their_hint(scripts: list[Script]) -> None:
    scripts.append(Script(Failed(EngineError("too hot", "open a window"), "line 7")))
    with pool(1) as crew, pytest.raises(EngineError, match="too hot") as caught:
        crew.fetch()
    assert caught.value.hint == "open a window"


def test_progress_never_falls_back() -> None:
    heard: list[float] = []
    tally = Tally(2, 6, lambda done, of: heard.append(done))
    tally.tell(block(2, 2, 3), 0.5)
    tally.tell(block(4, 4, 5), 0.75)
    tally.tell(block(2, 2, 3), 0.0)  # its worker died
    tally.finish(block(4, 4, 5))
    tally.finish(block(2, 2, 3))
    assert heard == [3.0, 4.5, 4.5, 4.5, 6.0]


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_shards_are_whole_blocks_and_together_the_run(count: int) -> None:
    run = GenerateConfig(count=count, batch=4)
    shards = [GenerateConfig(count=count, batch=4, shard=f"{number}/3") for number in (1, 2, 3)]
    parts = [list(blocks(shard)) for shard in shards]
    assert sorted((part for shard in parts for part in shard), key=lambda part: part.start) == list(blocks(run))
    assert sum(total(shard) for shard in shards) == total(run) == count


def test_a_block_is_whole_even_where_one_image_is_missing() -> None:
    found = list(tasks(GenerateConfig(count=7, batch=4), {0, 1, 2, 4, 5}))
    assert [(list(task.numbers), task.wanted) for task in found] == [([2, 3], (3,)), ([6], (6,))]


def test_cores_are_dealt_out_once_each() -> None:
    cores = sorted(os.sched_getaffinity(0))
    for count in range(1, len(cores) + 1):
        groups = split.core_groups(count)
        assert sorted(core for group in groups for core in group) == cores
        assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert split.core_groups(len(cores) + 1) == [()] * (len(cores) + 1)


class FakePipeline:
    class device:
        type = "cpu"


def measured(monkeypatch: pytest.MonkeyPatch, rates: dict[int, float], memory: int = 1) -> list[int]:
    """Let splits be as fast as ``rates`` says; returns the splits that are measured, in order."""
    import torch

    asked: list[int] = []

    def fake(setups: list[Setup]) -> list[split.Speed]:
        asked.append(len(setups))
        return [split.Speed(rates[len(setups)] / len(setups), memory)] * len(setups)

    monkeypatch.setattr(split, "measure_split", fake)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    return asked


class FakeGpus:
    class device:
        type = "cuda"


@pytest.mark.parametrize(
    ("settings", "devices", "auto"),
    [
        ({}, ["cuda:0", "cuda:1", "cuda:0"], 2),
        ({"device": "cuda"}, ["cuda:0", "cuda:1", "cuda:0"], 2),
        ({"device": "cuda:1"}, ["cuda:1"] * 3, 1),
        ({"engine_recipe": {"device": "cuda:1"}}, ["auto"] * 3, 1),  # the recipe says where
    ],
)
def test_workers_take_the_gpus_in_turn(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], devices: list[str], auto: int
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    config = GenerateConfig(rebuild="always", **settings)
    found = split.setups(config, FakeGpus, 3)  # type: ignore[arg-type]
    assert [setup.config.device for setup in found] == devices
    assert {(setup.threads, setup.cores, setup.config.rebuild) for setup in found} == {(5, (), "auto")}
    assert split.machine_workers(config, FakeGpus) == auto  # type: ignore[arg-type]


def test_the_split_is_the_fastest_that_was_measured_and_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    asked = measured(monkeypatch, {1: 5.0, 2: 8.0, 4: 9.0, 8: 7.0})
    told: list[str] = []
    config = GenerateConfig(model_digest="m")
    assert split.machine_workers(config, FakePipeline, told.append) == 4  # type: ignore[arg-type]
    assert asked == [1, 2, 4, 8]  # 16 is not tried once it falls
    assert told[2] == "4 x 4 threads: 9.00 denoiser samples a second"
    assert split.machine_workers(config, FakePipeline) == 4  # type: ignore[arg-type]
    assert len(asked) == 4
    split.machine_workers(GenerateConfig(model_digest="other"), FakePipeline)  # type: ignore[arg-type]
    assert len(asked) == 8


def test_no_more_workers_than_the_memory_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    asked = measured(monkeypatch, {1: 5.0, 2: 8.0, 4: 9.0}, memory=30)
    monkeypatch.setattr(split, "available_memory", lambda: 100)
    assert split.machine_workers(GenerateConfig(model_digest="m"), FakePipeline) == 2  # type: ignore[arg-type]
    assert asked == [1, 2]


@pytest.mark.slow
def test_a_worker_measures_real_calls(one_thread: None, settings: dict[str, Any]) -> None:
    config = GenerateConfig(model=settings["model"], batch=2)
    speeds = split.measure_split([Setup(config, 1, ())], seconds=0.01)
    assert len(speeds) == 1 and speeds[0].rate > 0 and speeds[0].memory > 2**20


def test_what_a_worker_sends_is_what_is_written_here(one_thread: None, settings: dict[str, Any]) -> None:
    import pickle

    from dgkit.data.crops import CropRules
    from dgkit.data.datasets import open_source
    from dgkit.data.index import build_index
    from dgkit.data.style_mixes import load_style_mix
    from dgkit.generation.blocks import make_block
    from dgkit.generation.jobs import JobPlan

    config = GenerateConfig(**{**settings, "count": 1})
    plan = JobPlan(build_index(open_source(settings["labels"])), CropRules((64, 64)), load_style_mix("uniform"), 0)
    made = make_block(plan, next(iter(tasks(config, ()))))
    again = pickle.loads(pickle.dumps(made))
    assert (again.jobs[0].label == made.jobs[0].label).all()
    with Maker(config) as maker:
        here, there = (encode_all(maker.draw(b, lambda share: None)) for b in (made, again))
    assert here == there
