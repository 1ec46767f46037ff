"""How workers share the cores and GPUs of a machine."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dgkit.generation import worker_setup
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.worker import Speed, WorkerSetup
from dgkit.generation.worker_setup import best_worker_count, core_groups, measure_workers, worker_setups

if sys.platform == "win32":
    pytest.skip("workers use inherited sockets", allow_module_level=True)

COUNT = 1


def test_each_core_belongs_to_one_worker() -> None:
    cores = sorted(os.sched_getaffinity(0))
    for count in range(1, len(cores) + 1):
        groups = core_groups(count)
        assert sorted(core for group in groups for core in group) == cores
        assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert core_groups(len(cores) + 1) == [()] * (len(cores) + 1)


class FakePipeline:
    device = SimpleNamespace(type="cpu")


def measured(monkeypatch: pytest.MonkeyPatch, rates: dict[int, float], memory: int = 1) -> list[int]:
    """Replace measurements by ``rates``; return the numbers of workers that are measured, in order."""
    import torch

    requested: list[int] = []

    def fake(setups: list[WorkerSetup]) -> list[Speed]:
        requested.append(len(setups))
        return [Speed(rates[len(setups)] / len(setups), memory)] * len(setups)

    monkeypatch.setattr(worker_setup, "measure_workers", fake)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    return requested


class FakeGpuPipeline:
    device = SimpleNamespace(type="cuda")


@pytest.mark.parametrize(
    ("settings", "devices", "auto"),
    [
        ({}, ["cuda:0", "cuda:1", "cuda:0"], 2),
        ({"device": "cuda"}, ["cuda:0", "cuda:1", "cuda:0"], 2),
        ({"device": "cuda:1"}, ["cuda:1"] * 3, 1),
        ({"engine_recipe": {"device": "cuda:1"}}, ["auto"] * 3, 1),  # the recipe states the device
    ],
)
def test_workers_take_the_gpus_in_turn(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], devices: list[str], auto: int
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    config = GenerateConfig(rebuild="always", **settings)
    found = worker_setups(config, FakeGpuPipeline, 3)  # type: ignore[arg-type]
    assert [setup.config.device for setup in found] == devices
    assert {(setup.threads, setup.cores, setup.config.rebuild) for setup in found} == {(5, (), "auto")}
    assert best_worker_count(config, FakeGpuPipeline) == auto  # type: ignore[arg-type]


def test_the_fastest_number_of_workers_is_chosen_and_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    requested = measured(monkeypatch, {1: 5.0, 2: 8.0, 4: 9.0, 8: 7.0})
    notes: list[str] = []
    config = GenerateConfig(model_digest="m")
    assert best_worker_count(config, FakePipeline, notes.append) == 4  # type: ignore[arg-type]
    assert requested == [1, 2, 4, 8]  # 16 is not measured after the decline
    assert notes[2] == "4 x 4 threads: 9.00 denoiser samples per second"
    assert best_worker_count(config, FakePipeline) == 4  # type: ignore[arg-type]
    assert len(requested) == 4
    best_worker_count(GenerateConfig(model_digest="other"), FakePipeline)  # type: ignore[arg-type]
    assert len(requested) == 8


def test_the_memory_limits_the_number_of_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    requested = measured(monkeypatch, {1: 5.0, 2: 8.0, 4: 9.0}, memory=30)
    monkeypatch.setattr(worker_setup, "available_memory", lambda: 100)
    assert best_worker_count(GenerateConfig(model_digest="m"), FakePipeline) == 2  # type: ignore[arg-type]
    assert requested == [1, 2]


@pytest.mark.slow
def test_a_worker_measures_real_calls(one_thread: None, settings: dict[str, Any]) -> None:
    config = GenerateConfig(model=settings["model"], batch=2)
    speeds = measure_workers([WorkerSetup(config, 1, ())], seconds=0.01)
    assert len(speeds) == 1 and speeds[0].rate > 0 and speeds[0].memory > 2**20
