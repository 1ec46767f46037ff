"""Worker processes make the same folder as one process, even if they die."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dgkit
from dgkit.errors import DgkitError, EngineError
from dgkit.generation import workers
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.worker import BlockDone, BlockProgress, Failed, Ready, WorkerSetup
from tests.generation.fakes import make_block
from tests.scenes import snapshot

if sys.platform == "win32":
    pytest.skip("workers use inherited sockets", allow_module_level=True)

COUNT = 7  # four blocks, the last of one image


def test_two_workers_make_the_same_files_as_one_process_even_if_one_is_killed(
    settings: dict[str, Any], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    real = workers.start

    def note(setup: WorkerSetup) -> Any:
        connection, process = real(setup)
        started.append(process.pid)
        return connection, process

    monkeypatch.setattr(workers, "start", note)
    notes: list[str] = []
    reported: list[float] = []
    killed: list[int] = []

    def kill_one(stage: str, done: float, of: float) -> None:
        if stage == "generate":
            reported.append(done)
            if done > 0 and not killed:
                killed.append(started[0])
                os.kill(started[0], signal.SIGKILL)

    out = tmp_path / "out"
    result = dgkit.generate(out, progress=kill_one, notify=notes.append, **settings | {"workers": 2})
    assert result.written == COUNT
    assert len(killed) == 1 and len(started) == 3
    assert len(notes) == 1 and notes[0].startswith("worker 1 was killed") and "generated again" in notes[0]
    assert snapshot(out, skip="config.yaml") == whole
    assert reported == sorted(reported) and reported[-1] == COUNT
    assert any(done % 1 for done in reported)  # within blocks, too


def test_an_error_of_a_worker_is_the_error_of_the_run(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker opens the model itself: a model that is gone by then is an error of the worker."""
    real = workers.start

    def elsewhere(setup: WorkerSetup) -> Any:
        return real(WorkerSetup(setup.config.model_copy(update={"model": str(tmp_path / "gone")}), 1, ()))

    monkeypatch.setattr(workers, "start", elsewhere)
    with pytest.raises(DgkitError, match="gone") as caught:
        dgkit.generate(tmp_path / "out", **settings | {"workers": 1})
    assert caught.value.hint
    assert "in a worker process" in caught.value.__notes__[0]
    assert not (tmp_path / "out").exists()


class Script:
    """A fake worker process and connection: it sends the given messages, then is dead."""

    def __init__(self, *messages: object) -> None:
        self.messages, self.sent, self.returncode = list(messages), [], -signal.SIGKILL

    def recv(self) -> object:
        if not self.messages:
            raise EOFError
        return self.messages.pop(0)

    def poll(self) -> bool:
        return bool(self.messages)

    def send(self, message: object) -> None:
        self.sent.append(message)

    def close(self) -> None:
        pass


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> list[Script]:
    """The workers that start next, in order."""
    queue: list[Script] = []

    def start(setup: WorkerSetup) -> Any:
        script = queue.pop(0)
        return script, script

    monkeypatch.setattr(workers, "start", start)
    monkeypatch.setattr(workers, "stop", lambda process, connection: None)
    monkeypatch.setattr(workers, "wait", lambda scripts: [script for script in scripts if script.messages] or scripts)
    return queue


def pool(count: int, update: Callable[..., None] = lambda block, share: None) -> workers.WorkerPool:
    return workers.WorkerPool([WorkerSetup(GenerateConfig(), 1, ())] * count, update)


def test_a_block_goes_to_the_worker_with_the_fewest(scripts: list[Script]) -> None:
    first, second = Script(Ready(), BlockDone(0, [])), Script(Ready())
    scripts += [first, second]
    reported: list[tuple[int, float]] = []
    with pool(2, lambda block, share: reported.append((block.start, share))) as workers_pool:
        assert workers_pool.capacity == 4
        for number in range(3):
            workers_pool.submit(make_block(number))
        assert [b.start for b in first.sent] == [0, 2] and [b.start for b in second.sent] == [1]
        first.messages.insert(1, BlockProgress(0, 0.5))
        block, images = workers_pool.fetch()
    assert (block.start, images, reported) == (0, [], [(0, 0.5)])


def test_blocks_that_were_sent_are_taken_without_waiting(scripts: list[Script]) -> None:
    scripts += [Script(Ready(), BlockDone(0, []), BlockProgress(2, 0.1)), Script()]
    with pool(2) as workers_pool:
        for number in range(3):
            workers_pool.submit(make_block(number))
        assert [block.start for block, _ in workers_pool.finished()] == [0]
        assert list(workers_pool.finished()) == []


def test_a_dead_workers_blocks_go_to_its_successor(scripts: list[Script]) -> None:
    successor = Script(Ready(), BlockDone(4, []), BlockDone(6, []))
    scripts += [Script(Ready()), successor]
    with pool(1) as workers_pool:
        for number in (4, 6):
            workers_pool.submit(make_block(number))
        assert [workers_pool.fetch()[0].start for _ in range(2)] == [4, 6]
    assert [b.start for b in successor.sent] == [4, 6]


@pytest.mark.parametrize(("message", "when"), [((Ready(),), "at image 4"), ((), "before it was ready")])
def test_a_block_that_kills_every_worker_ends_the_run(
    scripts: list[Script], message: tuple[Any, ...], when: str
) -> None:
    scripts += [Script(*message) for _ in range(workers.MAX_DEATHS)]
    with pool(1) as workers_pool:
        workers_pool.submit(make_block(4))
        with pytest.raises(EngineError, match=f"was killed .* {when}, 3 times in a row") as caught:
            workers_pool.fetch()
    assert "--workers" in caught.value.hint
    assert scripts == []


def test_deaths_of_other_blocks_do_not_add_up(scripts: list[Script]) -> None:
    scripts += [Script(Ready()), *(Script(Ready(), BlockDone(number, [])) for number in range(5))]
    with pool(1) as workers_pool:
        for number in range(5):
            workers_pool.submit(make_block(number))
            assert workers_pool.fetch()[0].start == number


def test_an_error_keeps_its_hint(scripts: list[Script]) -> None:
    scripts.append(Script(Failed(EngineError("too hot", "open a window"), "line 7")))
    with pool(1) as workers_pool, pytest.raises(EngineError, match="too hot") as caught:
        workers_pool.fetch()
    assert caught.value.hint == "open a window"
