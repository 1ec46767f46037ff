"""benchmarks/gpu/check.py as a program: its output when steps work, fail, hang, or are killed."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.benchmarks.scripts import BENCHMARKS, ROOT, load_script

SCRIPT = BENCHMARKS / "gpu" / "check.py"
Rows = dict[str, dict[str, str]]


def command(out: Path, *options: str) -> list[str]:
    return [sys.executable, str(SCRIPT), "--out", str(out), "--work", str(out.parent / "work"), *options]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def run(out: Path, *options: str, variables: dict[str, str] | None = None) -> tuple[subprocess.CompletedProcess, Rows]:
    environment = {**os.environ, **(variables or {})}
    result = subprocess.run(command(out, *options), env=environment, capture_output=True, text=True, timeout=2700)
    assert (out / "steps.csv").is_file(), result.stderr
    return result, {row["step"]: row for row in read(out / "steps.csv")}


def marked(text: str) -> list[int]:
    """Return the processes with ``text`` in their arguments."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture()
def without_dgkit(tmp_path: Path) -> dict[str, str]:
    """Environment variables with which importing dgkit fails."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pydantic.py").write_text("raise ImportError('pydantic is broken here')\n")
    return {"PYTHONPATH": str(tmp_path / "broken")}


def test_dry_run_measures_and_names_what_it_skips(tmp_path: Path) -> None:
    result, rows = run(tmp_path / "out", "--dry-run", "--steps", "card,measure,tests,trt", "--parts", "vae,small")
    assert result.returncode == 0, result.stdout + result.stderr
    assert list(rows) == ["environment", "card", "measure", "tests", "trt", "report"]
    assert {name: rows[name]["state"] for name in ("environment", "measure")} == {"environment": "ok", "measure": "ok"}
    for name in ("card", "tests", "trt"):
        assert rows[name]["state"] == "skipped" and rows[name]["detail"].startswith("needs ")
    found = read(tmp_path / "out" / "bench.csv")
    names = [(row["step"], row["network"], row["engine"], row["batch"]) for row in found]
    assert names == [("measure", "vae_decoder", "torch", "1"), *(("measure", "denoiser", "torch", n) for n in "12")]
    for row in found:
        assert float(row["ms_median"]) > 0 and 0 < float(row["parity"]) < 5e-2 and row["error"] == ""
    assert '"libraries"' in (tmp_path / "out" / "environment.json").read_text()
    assert "===== measure: " in (tmp_path / "out" / "log.txt").read_text()
    assert rows["measure"]["command"].startswith("python benchmarks/gpu/measure.py --size dry ")
    assert "step measure  network denoiser" in result.stdout


def test_short_check_compares_a_network(tmp_path: Path) -> None:
    result, rows = run(tmp_path / "out", "--size", "quick", "--dry-run", "--steps", "card,net_condition")
    assert result.returncode == 0, result.stdout + result.stderr
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {"card": "skipped"} | dict.fromkeys(("environment", "net_condition", "report"), "ok")
    assert "engines check torch ort:fp32 --networks condition" in rows["net_condition"]["command"]
    report = (tmp_path / "out" / "report.json").read_text()
    assert '"net_condition"' in report and str(tmp_path) not in report and str(ROOT) not in report


def test_short_check_covers_every_network_on_tensorrt() -> None:
    with load_script("gpu/check") as script:
        size, dry = script.SIZES["quick"]
        lacking = script.QuickPlan(size, script.Machine(True, False, False, ""), Path()).steps()
        found = script.QuickPlan(size, script.Machine(True, False, True, ""), Path()).steps()
    commands = {step.name: " ".join(map(str, step.command)) for step in found}
    for name, dtype in {"text_encoder": "fp32", "denoiser": "fp16", "vae_encoder": "fp32"}.items():
        assert f"check torch trt:{dtype} --networks {name} --device cuda" in commands[f"net_{name}"]
    assert "--count 10" in commands["images"] and "--engine trt --dtype fp16" in commands["images"]
    assert not any(step.lacks for step in found) and (size.minutes, dry.device) == (3, "cpu")
    assert sum(step.seconds for step in found) <= 60 * size.minutes
    assert {step.lacks for step in lacking} == {"", "needs tensorrt or tensorrt-rtx"}


def test_parts_without_time_left_are_named(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT.with_name("measure.py")), "--size", "dry", "--parts", "small,vae"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "DGKIT_GPU_CHECK_SECONDS": "2"}
    result = subprocess.run(
        [*command, "--csv", str(tmp_path / "rows.csv")], env=variables, capture_output=True, text=True
    )
    assert result.returncode == 1 and result.stdout.splitlines()[-1] == "error: no time for small, vae"
    assert not (tmp_path / "rows.csv").exists()


def test_failing_step_does_not_stop_the_others(tmp_path: Path, without_dgkit: dict[str, str]) -> None:
    result, rows = run(tmp_path / "out", "--dry-run", "--steps", "measure,parity", variables=without_dgkit)
    assert result.returncode == 1
    assert {row["state"] for row in rows.values()} == {"failed"} and len(rows) == 4
    assert all("pydantic is broken here" in row["detail"] for row in rows.values())
    assert not (tmp_path / "out" / "bench.csv").exists() and not (tmp_path / "out" / "environment.json").exists()


def test_wheels_take_precedence_over_installed_packages(tmp_path: Path) -> None:
    wheel = tmp_path / "wheels" / "pydantic-99-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pydantic.py", "raise ImportError('this is the pydantic of the wheel')\n")
        archive.writestr("pydantic-99.dist-info/METADATA", "Metadata-Version: 2.1\nName: pydantic\nVersion: 99\n")
        archive.writestr(
            "pydantic-99.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("pydantic-99.dist-info/RECORD", "")
    result, rows = run(tmp_path / "out", "--dry-run", "--steps", "card", "--wheels", str(wheel.parent))
    assert result.returncode == 1 and rows["wheels"]["state"] == "ok"
    assert "this is the pydantic of the wheel" in rows["environment"]["detail"]


def test_hanging_step_is_ended_with_all_it_started(tmp_path: Path, without_dgkit: dict[str, str]) -> None:
    """If doctor fails, all steps are tried; here the step card ignores Ctrl-C and has a daemon."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    nap = f"import time; time.sleep(600); {str(tmp_path)!r}"
    program.write_text(f'#!/bin/sh\ntrap "" INT\nsetsid {sys.executable} -c "{nap}" &\nwait\n')
    program.chmod(0o755)
    path = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    result, rows = run(
        tmp_path / "out", "--minutes", "0.12", "--steps", "card,parity", variables={**without_dgkit, **path}
    )
    assert result.returncode == 1
    assert rows["card"]["state"] == "timeout" and float(rows["card"]["seconds"]) < 30
    assert rows["card"]["detail"] == 'at File "<string>", line 1 in <module>'
    assert rows["parity"]["state"] == "no time"
    assert marked(nap) == []


def test_crashing_step_shows_its_exit_code(tmp_path: Path, without_dgkit: dict[str, str]) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport os\nprint('before it', flush=True)\nos.abort()\n")
    program.chmod(0o755)
    path = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    _, rows = run(tmp_path / "out", "--minutes", "0.5", "--steps", "card", variables={**without_dgkit, **path})
    assert rows["card"]["state"] == "failed" and rows["card"]["detail"].startswith("exit code -6: ")
    assert "Fatal Python error: Aborted" in (tmp_path / "out" / "log.txt").read_text()


def test_results_survive_a_kill(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(
        command(out, "--dry-run", "--steps", "measure"), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("measure ..."):
                break
        rows = {row["step"]: row["state"] for row in read(out / "steps.csv")}
        deadline = time.monotonic() + 60
        while not marked(str(tmp_path / "work" / "measure.csv")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    assert process.returncode == 143 and rows == {"environment": "ok"}
    assert marked(str(tmp_path / "work")) == []


def test_missing_device_is_a_failure(tmp_path: Path) -> None:
    with load_script("gpu/check") as script:
        steps = ",".join(name for name in script.NAMES if name != "trt_trial")  # works here, but takes half a minute
    result, rows = run(tmp_path / "out", "--steps", steps, variables={"CUDA_VISIBLE_DEVICES": ""})
    assert result.returncode == 1 and "this machine has no CUDA device" in result.stdout
    assert len(rows) > 12 and {row["state"] for row in rows.values()} == {"ok", "skipped"}


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    for options, words in (
        ("--steps nonsense", "unknown step 'nonsense'"),
        (f"--wheels {tmp_path}", "contains no .whl file"),
    ):
        result = subprocess.run(command(tmp_path / "out", *options.split()), capture_output=True, text=True)
        assert result.returncode == 2 and words in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_short_check_without_a_gpu_runs(tmp_path: Path) -> None:
    result, rows = run(tmp_path / "out", "--size", "quick", "--dry-run")
    assert result.returncode == 0, result.stdout + result.stderr
    states = {name: row["state"] for name, row in rows.items()}
    assert states.pop("card") == "skipped" and set(states.values()) == {"ok"} and len(states) == 9


@pytest.mark.slow
def test_all_steps_without_a_gpu_run(tmp_path: Path) -> None:
    result, rows = run(tmp_path / "out", "--dry-run", "--minutes", "40")
    states = {name: row["state"] for name, row in rows.items()}
    skipped = {"card", "trt_build", "tests", "trt", "generate_trt", "parity_trt", "tests_compile"}
    assert {name for name, state in states.items() if state == "skipped"} - {"trt_trial"} == skipped
    assert result.returncode == 0 and set(states.values()) == {"ok", "skipped"}, rows
    measured = {(row["step"], row["engine"]) for row in read(tmp_path / "out" / "bench.csv")}
    assert {
        ("measure", "torch"),
        ("measure", "official"),
        ("compile_small", "compile"),
        ("compile", "compile"),
    } <= measured
    others = {row["step"]: row["concurrent"] for row in rows.values()}
    assert "parity" in others["build_large"] and "build_large" in others["parity"] and others["measure"] == ""
