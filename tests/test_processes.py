"""Processes of their own: they import the same dgkit, and are killed with all that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dgkit
from dgkit.processes import Terminated, child_environment, describe_exit, helper_process, kill_group, sigterm_raises


def test_children_import_the_same_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    found = child_environment({"OMP_NUM_THREADS": "3"})
    roots = found["PYTHONPATH"].split(os.pathsep)
    assert roots == [str(Path(dgkit.__file__).resolve().parents[1]), "elsewhere"] and found["OMP_NUM_THREADS"] == "3"
    program = [sys.executable, "-c", "import dgkit; print(dgkit.__file__)"]
    printed = subprocess.run(program, cwd=tmp_path, env=found, check=True, capture_output=True, text=True).stdout
    assert Path(printed.strip()).resolve() == Path(dgkit.__file__).resolve()


def test_killed_group_is_gone_and_may_be_killed_again() -> None:
    process = subprocess.Popen(["sh", "-c", "sleep 600 & echo; wait"], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()  # the child of the shell is running
    kill_group(process)
    kill_group(process)
    assert process.stdout.read() == b""  # the child held the pipe open
    process.stdout.close()
    assert describe_exit(process.returncode) == "was killed (possibly out of memory)"


def test_helper_gets_its_request_and_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with helper_process("json.tool", {"count": 3}, subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read().split() == [b"{", b'"count":', b"3", b"}"]
    (tmp_path / "sleeper.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with helper_process("sleeper", {}) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("code", "text"), [(-6, "was terminated by SIGABRT"), (3, "exited with code 3")])
def test_exits_are_described(code: int, text: str) -> None:
    assert describe_exit(code) == text


def test_sigterm_raises_once_and_in_the_process_of_the_handler_only() -> None:
    with pytest.raises(Terminated), sigterm_raises():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # while the run ends
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


POOL = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from dgkit.processes import start_pool_worker
if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=start_pool_worker) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs SIGKILL and /proc")
def test_workers_of_a_pool_end_when_the_main_process_is_killed(tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "pool.py")], stdout=subprocess.PIPE, env=child_environment({})
    )
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    until = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()
