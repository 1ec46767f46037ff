"""Locks: one holder at a time, whoever waits and however the holder ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dgkit.errors import OutputError
from dgkit.locks import LOCK, has_writer, locked, sole_writer

HOLD = """
import sys, time
from pathlib import Path
from dgkit.locks import locked
with locked(Path(sys.argv[1])):
    print("inside", flush=True)
    time.sleep(60)
"""


def test_the_file_exists_only_while_the_lock_is_held(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path, "mine") as entered:
        assert entered and [path.name for path in tmp_path.iterdir()] == ["mine"]
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_a_taken_lock_is_refused_at_once_without_waiting(tmp_path: Path) -> None:
    with (
        locked(tmp_path) as first,
        locked(tmp_path, wait=False) as second,
        locked(tmp_path, "other", wait=False) as third,
    ):
        assert (first, second, third) == (True, False, True)
    with locked(tmp_path, wait=False) as entered:
        assert entered


def test_many_threads_never_hold_it_at_once(tmp_path: Path) -> None:
    inside, met, entered = [], [], []

    def enter() -> None:
        for _ in range(25):
            with locked(tmp_path):
                inside.append(True)
                met.append(len(inside))
                inside.pop()
            entered.append(True)

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entered) == 100 and set(met) == {1}
    assert not list(tmp_path.iterdir())


def test_a_killed_process_frees_its_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"inside\n"
        with locked(tmp_path, wait=False) as entered:
            assert not entered
        holder.send_signal(signal.SIGKILL)
    with locked(tmp_path, wait=False) as entered:
        assert entered


def test_a_file_left_by_a_killed_process_does_not_block(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    assert not has_writer(tmp_path) and (tmp_path / LOCK).exists()
    with sole_writer(tmp_path):
        assert has_writer(tmp_path)
    assert not has_writer(tmp_path) and not list(tmp_path.iterdir())


def test_a_second_writer_is_refused_at_once(tmp_path: Path) -> None:
    with (
        sole_writer(tmp_path),
        pytest.raises(OutputError, match=f"another run is writing to {tmp_path}") as caught,
        sole_writer(tmp_path),
    ):
        pytest.fail("two writers")
    assert caught.value.hint == "wait for it to end, or choose another folder"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    with pytest.raises(OutputError, match="cannot write"), sole_writer(tmp_path):
        pytest.fail("locked a folder")
    assert not has_writer(tmp_path)


def test_a_lock_file_that_replaced_ours_stays(tmp_path: Path) -> None:
    with locked(tmp_path, "mine"):
        (tmp_path / "mine").rename(tmp_path / "moved")
        (tmp_path / "mine").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "moved"]


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        with locked(tmp_path, wait=False) as entered:
            assert entered
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
