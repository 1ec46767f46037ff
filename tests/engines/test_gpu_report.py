"""The report for a bug: what it holds, and that no path, user or host name is left in it."""

from __future__ import annotations

import dataclasses
import getpass
import json
import platform
from pathlib import Path

import pytest

from dgkit.diagnosis import Cpu, Diagnosis
from dgkit.engines.gpu_report import LOG_LINES, private_names, read_check, redacted, write_report
from dgkit.engines.store import EngineStore
from dgkit.errors import InputError, OutputError
from tests.engines import stored

FOUND = Diagnosis(
    python="3.11", platform="Linux", commit="abc", versions={"torch": "2.13"}, cpu=Cpu("x", 1, 2, ()), memory_total=1,
    memory_available=1, devices=(), libraries=(), extras=(), fastest="", embedded_model="/home/alice/dgkit/models/city",
    problems=("fix it: pip install -e '/home/alice b/dgkit[gpu]'",),
)  # fmt: skip


@pytest.fixture
def check(tmp_path: Path) -> Path:
    """The output folder of gpu-check on the machine box of a user called alice."""
    folder = tmp_path / "runs of alice" / "gpu"
    folder.mkdir(parents=True)
    (folder / "steps.csv").write_text("step,state,command\ntrt,failed,python -m dgkit bench --csv /tmp/x/trt.csv\n")
    (folder / "bench.csv").write_text("step,ms_median\ntrt,12.5\n")
    lines = ["noise"] * LOG_LINES + [
        f"error: {folder}/engine: cannot be opened on box.local by Alice",
        '  File "/home/alice/dgkit/dgkit/engines/trt.py", line 3, in run',
        r"C:\Users\alice\model.onnx: 12 images/hour, 3/4 done, see https://example.org/a/b",
    ]
    (folder / "log.txt").write_text("\n".join(lines))
    return folder


def test_report_has_everything_without_paths_and_names(
    check: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("USER", "alice")
    monkeypatch.setattr(platform, "node", lambda: "box.local")
    EngineStore().obtain(stored.KEY, stored.build, model="/home/alice/secret-model")
    content = write_report(tmp_path / "report.json", FOUND, check)
    text = (tmp_path / "report.json").read_text()
    assert json.loads(text) == content
    for private in ("alice", "box", "/home", "/tmp", "secret-model", str(tmp_path), "Users"):
        assert private.lower() not in text.lower(), private
    assert content["check"]["steps"][0]["state"] == "failed" and content["check"]["figures"][0]["ms_median"] == "12.5"
    assert len(content["check"]["log"]) == LOG_LINES
    error, frame, mixed = content["check"]["log"][-3:]
    assert error == "error: <path>: cannot be opened on <host> by <user>"
    assert 'File "<path>/dgkit/engines/trt.py", line 3' in frame
    assert mixed.endswith(": 12 images/hour, 3/4 done, see https://example.org/a/b")
    (engine,) = content["engines"]
    assert engine["backend"] == "openvino" and engine["notes"] == {"error": 1e-5} and engine["state"] == "ok"
    assert content["machine"]["embedded_model"] is True and content["machine"]["versions"]["torch"] == "2.13"


def test_names_of_this_machine_are_known() -> None:
    names = private_names()
    assert names.get(getpass.getuser()) == "<user>" and names.get(platform.node()) == "<host>"
    shown = redacted([f"{getpass.getuser()}@{platform.node()}", 3, None], names, ())
    assert shown == ["<user>@<host>", 3, None]


def test_report_without_results_of_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    content = write_report(tmp_path / "new" / "report.json", dataclasses.replace(FOUND, embedded_model=None))
    assert content["check"] is None and content["engines"] == [] and content["machine"]["embedded_model"] is False


def test_wrong_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder; expected the name of a file") as caught:
        write_report(tmp_path, FOUND)
    assert caught.value.hint.endswith("gpu-report.json")
    with pytest.raises(InputError, match="has no results of gpu-check") as missing:
        read_check(tmp_path)
    assert missing.value.hint == "run make gpu-check first"
