"""The configurations of a run, their order, and what their rows are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dgkit.bench import benchmark as run
from dgkit.bench.bench_config import BenchConfig, BenchTask
from dgkit.bench.configurations import check, tasks
from dgkit.bench.rows import BenchRow, read
from dgkit.bench.task_process import TaskOutcome
from dgkit.config import load_config
from dgkit.errors import EngineError, UsageError

ENVIRONMENT = {"run": "2026-01-01T00:00:00+00:00", "device": "cpu", "cpu": "a CPU", "threads": 2}


def describe_tasks(**settings: Any) -> list[str]:
    return [run.describe(task) for task in tasks(load_config(BenchConfig, **settings), "cpu", Path("references"))]


def test_baselines_come_first() -> None:
    assert describe_tasks(engines=["ort", "torch"], dtypes=["bf16", "fp32"], batches=[4, 1], against="official") == [
        "ceilings bf16", "ceilings fp32", "denoiser reference", "denoiser official",
        "denoiser torch:fp32 batch 1", "denoiser torch:fp32 batch 4",
        "denoiser ort:bf16 build", "denoiser ort:bf16 batch 1", "denoiser ort:bf16 batch 4",
        "denoiser ort:fp32 build", "denoiser ort:fp32 batch 1", "denoiser ort:fp32 batch 4",
        "denoiser torch:bf16 batch 1", "denoiser torch:bf16 batch 4",
    ]  # fmt: skip


def test_batches_in_one_process_without_ceilings() -> None:
    assert describe_tasks(subjects=["vae"], batches=[4, 1, 4], together=True, ceilings=False) == [
        "vae_decoder reference",
        "vae_decoder torch:fp32 batch 1, 4",
    ]


def test_int8_runs_on_engines_that_support_it_and_has_no_ceiling() -> None:
    assert describe_tasks(engines=["torch", "openvino"], dtypes=["int8", "bf16"]) == [
        "ceilings bf16", "denoiser reference", "denoiser torch:bf16 batch 2",
        "denoiser openvino:int8 build", "denoiser openvino:int8 batch 2",
        "denoiser openvino:bf16 build", "denoiser openvino:bf16 batch 2",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["sd21", "sdxl"])
def test_models_of_other_families_have_the_same_plan(name: str) -> None:
    settings: dict[str, Any] = {
        "subjects": ["denoiser", "vae", "condition", "sampler", "generate"], "dtypes": ["fp32", "bf16", "int8"],
        "engines": ["torch", "ort", "openvino", "compile", "trt"],
    }  # fmt: skip
    config = load_config(BenchConfig, model=f"random:{name}", **settings)
    check(config)
    assert {task.model for task in tasks(config, "cpu", Path("references"))} == {f"random:{name}"}
    assert describe_tasks(model=config.model, **settings) == describe_tasks(model="random:sd15", **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"subjects": ["segmenter"]}, "unknown subject 'segmenter'; known: denoiser, vae"),
        ({"engines": ["tvm"]}, "unknown engine 'tvm'"),
        ({"dtypes": ["fp4"]}, "unknown dtype 'fp4'"),
        ({"engines": ["torch", "ort"], "dtypes": ["int8"]}, "no engine of torch, ort computes in int8; openvino does"),
        ({"batches": [0]}, "--batches 0; allowed: 1 or more"),
        ({"preset": "best"}, "unknown preset 'best'"),
        ({"model": "random:sd5"}, "unknown random model 'sd5'"),
        ({"subjects": ["vae"], "against": "official"}, "--against official does not apply to vae"),
        ({"plot": Path("bars.png")}, "bars.png is not an .svg file"),
        ({"subjects": ["eval"], "on": "cityscapes=DIR"}, "eval needs a segmenter and a data set"),
        ({"subjects": ["eval"], "on": "gta=DIR", "segmenter": Path("s.onnx"), "rebuild": "never"}, "--rebuild never"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check(load_config(BenchConfig, **settings))


class FakeWorker:
    """Replaces the processes: returns figures that depend on the task, and the failures that a test sets."""

    def __init__(self, failing: dict[str, TaskOutcome]) -> None:
        self.failing, self.ran = failing, []  # type: dict[str, TaskOutcome], list[str]

    def __call__(self, task: BenchTask, timeout: float) -> TaskOutcome:
        name = run.describe(task) if task.kind != "environment" else "environment"
        self.ran.append(name)
        if name in self.failing:
            return self.failing[name]
        if task.kind == "environment":
            return TaskOutcome((dict(ENVIRONMENT),), "")
        if task.kind == "ceiling":
            names = ("matmul", "conv3x3", "copy")
            return TaskOutcome(tuple({"network": name, "tflops": 2.0, "ms_median": 1.0} for name in names), "")
        if task.kind == "build":
            return TaskOutcome(({"build_s": 9.0, "file_mib": 3.0},), "")
        if task.kind == "reference":
            return TaskOutcome(({},), "")
        speed = {"torch:fp32": 10.0, "torch:bf16": 5.0, "ort:fp32": 2.0, "ort:bf16": 1.0}
        each = 40.0 if task.kind == "official" else speed[f"{task.engine}:{task.dtype}"]
        cells = [
            {"batch": batch, "ms_median": each * batch, "ms_sample": each, "tflops": 5.0 / each}
            for batch in task.batches
        ]
        return TaskOutcome(tuple(cells), "")


def measure(monkeypatch: pytest.MonkeyPatch, worker: FakeWorker, **settings: Any) -> list[BenchRow]:
    monkeypatch.setattr(run, "run_task", worker)
    return run.bench(load_config(BenchConfig, **settings))


def test_rows_are_compared_within_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    worker = FakeWorker({})
    rows = measure(monkeypatch, worker, engines=["torch", "ort"], batches=[1, 2], against="official", csv=path,
                   model="random:tiny", note="quiet", plot=tmp_path / "bars.svg")  # fmt: skip
    by_label = {row.label: row for row in rows if row.subject != "ceiling"}
    assert list(by_label) == [
        "denoiser official:fp32, batch 2", "denoiser torch:fp32, batch 1", "denoiser torch:fp32, batch 2",
        "denoiser ort:fp32, batch 1", "denoiser ort:fp32, batch 2",
    ]  # fmt: skip
    plain, quick = by_label["denoiser torch:fp32, batch 2"], by_label["denoiser ort:fp32, batch 2"]
    assert (plain.x_official, plain.x_fp32, plain.share, plain.build_s) == (4.0, None, 0.25, None)
    assert (quick.x_official, quick.x_fp32, quick.share, quick.build_s, quick.file_mib) == (20.0, 5.0, 1.25, 9.0, 3.0)
    assert {row.run for row in rows} == {ENVIRONMENT["run"]} and {row.note for row in rows} == {"quiet"}
    assert [row.label for row in read(path)] == [row.label for row in rows] and len(rows) == 8
    assert (tmp_path / "bars.svg").read_text().count("<rect") == 1 + 5


def test_failures_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = FakeWorker({
        "denoiser ort:fp32 build": TaskOutcome((), "no disk"),
        "denoiser torch:bf16 batch 1, 2": TaskOutcome(({"batch": 1, "ms_median": 1.0, "ms_sample": 1.0},), "killed"),
        "denoiser reference": TaskOutcome((), "too large"),
    })  # fmt: skip
    rows = measure(monkeypatch, worker, engines=["torch", "ort"], dtypes=["fp32", "bf16"], batches=[1, 2],
                   together=True, ceilings=False)  # fmt: skip
    errors = {row.label.removeprefix("denoiser "): row.error for row in rows}
    lost = "no parity, since the reference failed: too large"
    assert errors["torch:fp32, batch 1"] == lost and errors["torch:bf16, batch 1"] == lost
    assert errors["torch:bf16, batch 2"] == f"killed; {lost}"
    assert errors["ort:fp32, batch 1"] == errors["ort:fp32, batch 2"] == f"build: no disk; {lost}"
    assert "denoiser ort:fp32 batch 1, 2" not in worker.ran


def test_no_working_configuration_and_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dead = FakeWorker({"denoiser torch:fp32 batch 2": TaskOutcome((), "was terminated by SIGSEGV")})
    with pytest.raises(EngineError, match="no configuration worked; the first: was terminated by SIGSEGV"):
        measure(monkeypatch, dead, csv=tmp_path / "rows.csv")
    assert [row.error for row in read(tmp_path / "rows.csv")] == ["", "", "", "was terminated by SIGSEGV"]
    with pytest.raises(EngineError, match="device cuda:9: there is none"):
        measure(monkeypatch, FakeWorker({"environment": TaskOutcome((), "there is none")}), device="cuda:9")


def test_custom_worker_and_rows_of_earlier_runs() -> None:
    """Without parity there is no reference to make."""
    worker = FakeWorker({})
    config = load_config(BenchConfig, engines=["torch"], dtypes=["bf16"], ceilings=False, parity=False)
    before = run.bench(load_config(BenchConfig, against="official"), worker=FakeWorker({}))
    (row,) = run.bench(config, worker=worker, earlier=before)
    assert worker.ran == ["environment", "denoiser torch:bf16 batch 2"]
    assert (row.x_official, row.x_fp32, row.share) == (8.0, 2.0, None)
    other = config.model_copy(update={"model": "random:tiny"})  # times of another model are no baseline
    (row,) = run.bench(other, worker=FakeWorker({}), earlier=before)
    assert (row.x_official, row.x_fp32) == (None, None)
