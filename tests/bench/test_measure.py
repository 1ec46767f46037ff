"""Tasks run in this process on the smallest networks, and a few in their own processes."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dgkit.bench import network_speed as networks
from dgkit.bench.bench_config import BenchConfig, BenchTask
from dgkit.bench.benchmark import bench
from dgkit.bench.measure import work
from dgkit.bench.official import Published
from dgkit.bench.rows import COLUMNS, read
from dgkit.bench.task_process import PersistentWorker
from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.presets import PRESETS
from dgkit.diffusion.sampler import SceneRequest, sample
from dgkit.engines.runner import Network
from dgkit.engines.spec import NetworkSpec, TensorSpec
from dgkit.engines.torch_runner import TorchRunner

TINY = "random:tiny"


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("references")
    for subject, kind in (("denoiser", "reference"), ("sampler", "reference")):
        assert run_task(kind, subject, folder) == [{}]
    return folder


def run_task(kind: str, subject: str, references: Path | None, **settings: Any) -> list[dict[str, Any]]:
    settings = {"model": TINY, "repeats": 3, "seconds": 0.01, "steps": 1, **settings}
    task = BenchTask(kind=kind, subject=subject, references=references, **settings)
    cells = list(work(task))
    assert all(set(cell) <= set(COLUMNS) for cell in cells)
    return cells


def test_a_network_against_the_reference(references: Path) -> None:
    one, two = run_task("measure", "denoiser", references, batches=(1, 2))
    assert (one["batch"], two["batch"]) == (1, 2) and one["parity"] < 1e-5 and two["parity"] < 1e-5
    assert one["calls"] == 3 and one["ms_p95"] >= one["ms_median"] == one["ms_sample"] == 1 * one["ms_median"]
    assert two["ms_sample"] == two["ms_median"] / 2 and one["rss_mib"] > 100
    assert one["load_s"] > 0 and "load_s" not in two
    # Operations of a sample times samples a second, whatever the batch.
    per_sample = [cell["tflops"] * cell["ms_sample"] for cell in (one, two)]
    assert per_sample[0] == pytest.approx(per_sample[1], rel=1e-6)


@pytest.mark.parametrize("model", ["random:tiny-sd21", "random:tiny-sdxl"])
def test_a_network_of_another_family(model: str, tmp_path: Path) -> None:
    assert run_task("reference", "denoiser", tmp_path, model=model) == [{}]
    (cell,) = run_task("measure", "denoiser", tmp_path, model=model, batches=(2,))
    assert cell["parity"] < 1e-5 and cell["tflops"] > 0


def test_error_of_half_precision_is_that_of_its_rounding(references: Path) -> None:
    (cell,) = run_task("measure", "denoiser", references, dtype="bf16", batches=(2,))
    assert 1e-4 < cell["parity"] < 5e-2


def test_a_reference_is_made_once(references: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(references.iterdir())
    assert len(before) == 2
    monkeypatch.setattr(networks, "count_flops", lambda *_: pytest.fail("made again"))
    assert run_task("reference", "denoiser", references) == [{}] and sorted(references.iterdir()) == before


def test_a_batch_that_fails_does_not_stop_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(TorchRunner):
        def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            if len(tensors["label"]) == 2:
                raise MemoryError("no room for two\nand more")
            return super()._run(tensors)

    monkeypatch.setattr(networks, "runner_class", lambda engine: Picky)
    one, two, three = run_task("measure", "condition", None, batches=(1, 2, 3))
    assert two == {"batch": 2, "error": "MemoryError: no room for two", "threads": two["threads"],
                   "load_average": two["load_average"]}  # fmt: skip
    assert one["ms_median"] > 0 and three["ms_median"] > 0 and "parity" not in one


def test_non_finite_values_are_an_error(references: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(TorchRunner):
        def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            outputs = {name: value.clone() for name, value in super()._run(tensors).items()}
            outputs["prediction"][0, 0, 0, 0] = float("nan")
            return outputs

    monkeypatch.setattr(networks, "runner_class", lambda engine: Broken)
    (cell,) = run_task("measure", "denoiser", references)
    assert "1 of 256 values" in cell["error"] and "parity" not in cell and cell["ms_median"] > 0


class Attention(nn.Module):
    """3x3 convolution of 2 to 4 channels, then attention over all places with one head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.conv(image).flatten(2).transpose(1, 2)[:, None]
        return torch.nn.functional.scaled_dot_product_attention(maps, maps, maps)


def test_operations_of_convolutions_and_attention_are_counted() -> None:
    shape = ("batch", "channels", "height", "width")
    spec = NetworkSpec("attention", (TensorSpec("image", shape),), ())
    network = Network(spec, Attention, str, {"batch": 2, "channels": 2, "height": 8, "width": 8})
    places = 8 * 8
    convolution, attention = 2 * places * 4 * 2 * 9, 2 * 2 * places**2 * 4
    assert networks.count_flops(network, Attention()) == convolution + attention


def test_the_sampler(references: Path) -> None:
    (cell,) = run_task("measure", "sampler", references, batches=(4,), count=2)
    assert cell["images"] == 2 and cell["ms_sample"] == cell["ms_median"] / 2
    assert cell["images_per_hour"] == pytest.approx(3.6e6 / cell["ms_sample"])
    assert 0 < cell["outside"] < 1 and cell["parity"] < 5e-3 and cell.get("psnr", 99.0) > 45


@pytest.fixture()
def request_() -> SceneRequest:
    label = np.full((64, 64), 2, dtype=np.uint8)
    label[20:40, 30:], label[:, :9] = 13, 255
    return SceneRequest(label, "building car", 3)


def test_published_schedule_makes_the_images_of_its_preset(request_: SceneRequest) -> None:
    preset = dataclasses.replace(PRESETS["official"], steps=2, large_area=4000)
    with load_pipeline(TINY) as pipeline:
        (expected,) = sample(pipeline, [request_], preset, batch=16)
        published = Published(pipeline, request_, preset)
        calls = pipeline.runners["denoiser"].timing.calls
        image = published.make()
        assert pipeline.runners["denoiser"].timing.calls - calls == published.evaluations == 2 * (1 + 25)
        assert pipeline.runners["condition"].timing.samples >= 2 * published.evaluations
    assert np.abs(image.astype(int) - expected.image).max() <= 1


def test_slow_images_are_extrapolated(references: Path) -> None:
    (whole,) = run_task("official", "sampler", references, batches=(2,))
    assert whole["images"] == 1 and "method" not in whole and whole["calls"] == 3
    (guess,) = run_task("official", "sampler", references, batches=(2,), official_seconds=0)
    count, _, _, each, _, _, rest, _ = guess["method"].removeprefix("extrapolated: ").split()
    assert int(count) * float(each) + float(rest) == pytest.approx(guess["ms_median"], rel=1e-2)
    assert int(count) == 26 and guess["ms_p95"] is None
    (one,) = run_task("official", "denoiser", references, batches=(2,))
    assert one["ms_sample"] == one["ms_median"] / 2


@pytest.mark.parametrize(("steps", "evaluations"), [(None, 20 * 26), (2, 2 * 26)])
def test_published_schedule_uses_its_own_steps(references: Path, steps: int | None, evaluations: int) -> None:
    """Its steps do not depend on the preset, unless ``steps`` is set."""
    given = {"batches": (2,), "preset": "turbo", "steps": steps, "official_seconds": 0}
    (cell,) = run_task("official", "sampler", references, **given)
    assert cell["method"].startswith(f"extrapolated: {evaluations} evaluations ")


def test_ceilings() -> None:
    cells = run_task("ceiling", "", None, dtype="fp32", edge=64)
    assert [cell["network"] for cell in cells] == ["matmul", "conv3x3", "copy"]
    assert cells[0]["tflops"] > 0 and cells[1]["tflops"] > 0 and cells[2]["gbytes"] > 0


def test_engines_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    (first,) = run_task("build", "condition", None, engine="ort")
    (again,) = run_task("build", "condition", None, engine="ort")
    assert first["build_s"] == again["build_s"] > 0 and first["file_mib"] == again["file_mib"] > 0
    assert "build_rss_mib" in first and "build_rss_mib" not in again
    (cell,) = run_task("measure", "condition", None, engine="ort")
    assert cell["ms_median"] > 0


def test_run_in_its_own_processes(tmp_path: Path) -> None:
    config = BenchConfig(subjects=("condition",), batches=(1,), model=TINY, device="cpu", seconds=0.01, repeats=3,
                         ceilings=False, csv=tmp_path / "rows.csv", threads=1)  # fmt: skip
    (row,) = bench(config)
    assert row.error == "" and row.parity is not None and row.parity < 1e-5 and row.threads == 1
    assert row.dgkit and row.cpu and "torch" in row.versions and row.device == "cpu"
    (kept,) = read(tmp_path / "rows.csv")
    assert kept.ms_median == pytest.approx(row.ms_median, rel=1e-4) and kept.run == row.run


def test_runs_that_share_a_process(tmp_path: Path) -> None:
    config = BenchConfig(subjects=("condition",), batches=(1,), model=TINY, device="cpu", seconds=0.01, repeats=3,
                         ceilings=False, references=tmp_path)  # fmt: skip
    with PersistentWorker() as worker:
        before = bench(config, worker=worker)
        (row,) = bench(config.model_copy(update={"dtypes": ("bf16",)}), worker=worker, earlier=before)
    assert row.error == "" and row.x_fp32 is not None and row.parity is not None and 1e-4 < row.parity < 5e-2
    assert row.rss_mib is None and row.load_s is not None and row.load_s > 0


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_generate_gets_the_settings_of_the_task(cuda_graph: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Started(Exception):
        pass

    def start(words: list[str], **options: Any) -> None:
        command.extend(words)
        raise Started

    command: list[str] = []
    monkeypatch.setattr("dgkit.bench.command.subprocess.Popen", start)
    with pytest.raises(Started):
        run_task("reference", "generate", Path("absent"), cuda_graph=cuda_graph)
    assert ("--no-cuda-graph" in command) is not cuda_graph
    assert "--engine torch --dtype fp32 --device cpu --preset exact --batch 1" in " ".join(command)


def test_file_times_are_not_used_if_the_clock_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr("dgkit.bench.image_speed._run_command", lambda *given: monkeypatch.setattr(
        time, "time", lambda: real() - 3600))  # fmt: skip
    (row,) = run_task("measure", "generate", None)
    assert "clock was set by -3600 s" in row["error"]


@pytest.mark.slow
def test_the_whole_command(tmp_path: Path) -> None:
    config = BenchConfig(subjects=("generate",), engines=("torch", "ort"), batches=(2, 4), model=TINY, device="cpu",
                         steps=1, against="official", ceilings=False)  # fmt: skip
    rows = {(row.engine, row.batch): row for row in bench(config)}
    assert not any(row.error for row in rows.values())
    assert rows["torch", 4].images == 2 and rows["torch", 2].images == 1
    for engine in ("torch", "ort"):
        row = rows[engine, 2]
        assert row.parity is not None and row.parity < 5e-3 and row.x_official is not None
        assert row.images_per_hour == pytest.approx(3.6e6 / row.ms_sample, rel=1e-6)
        assert row.rss_mib is not None and row.rss_mib > 100 and row.load_s is not None and row.load_s > 0
    assert rows["official", 2].preset == "official"
