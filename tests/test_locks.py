"""One at a time inside, whoever waits and however the one inside ends."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dgkit.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from dgkit.locks import locked
with locked(Path(sys.argv[1])):
    print("inside", flush=True)
    time.sleep(60)
"""


def test_the_file_is_there_only_while_somebody_is_inside(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path, "mine") as entered:
        assert entered and [path.name for path in tmp_path.iterdir()] == ["mine"]
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_without_waiting(tmp_path: Path) -> None:
    with (
        locked(tmp_path) as first,
        locked(tmp_path, wait=False) as second,
        locked(tmp_path, "other", wait=False) as third,
    ):
        assert (first, second, third) == (True, False, True)
    with locked(tmp_path, wait=False) as entered:
        assert entered


def test_many_at_once_never_meet(tmp_path: Path) -> None:
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


def test_a_killed_process_leaves_the_way_open(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"inside\n"
        with locked(tmp_path, wait=False) as entered:
            assert not entered
        holder.send_signal(signal.SIGKILL)
    with locked(tmp_path, wait=False) as entered:
        assert entered
