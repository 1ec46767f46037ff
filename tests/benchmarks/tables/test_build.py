"""The table builder: the pages of this repository are up to date, and each table is written where it belongs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dgkit.bench.rows import BenchRow, append
from tests.benchmarks.scripts import load_script

PLAIN = BenchRow("2026-01-01T00:00:00+00:00", "denoiser", "denoiser", "torch", "fp32", 2, "embedded", ms_median=80.0,
            ms_sample=40.0, parity=0.0, device="cpu", cpu="some CPU, 2 cores", threads=2, commit="0123456789abcdef",
            versions="torch 2.13.0 openvino 2026.4 onnx 1.23", load_average=1.2)  # fmt: skip
QUICK = dataclasses.replace(PLAIN, engine="openvino", dtype="bf16", ms_sample=10.0, x_fp32=4.0, parity=0.012)
FAILED = dataclasses.replace(PLAIN, engine="ort", ms_median=None, ms_sample=None, error="killed")


Build = Callable[..., int]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Build]:
    """Runs the script on pages in ``tmp_path``."""
    with load_script("tables/build") as script:
        monkeypatch.setattr(script, "ROOT", tmp_path)

        def run(*options: str) -> int:
            monkeypatch.setattr(sys, "argv", ["build.py", *options])
            code: int = script.main()
            return code

        yield run


def make_page(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("before\n\n" + "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in names) + "\nafter\n")
    return path


def test_pages_are_up_to_date(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with load_script("tables/build") as script:
        monkeypatch.setattr(sys, "argv", ["build.py", "--check"])
        assert script.main() == 0, f"{capsys.readouterr().out}run python benchmarks/tables/build.py"


def test_figures_are_written_and_differences_noticed(
    build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = make_page(tmp_path / "docs" / "results" / "speed.md", "bench")
    assert build("bench", "--check") == 0
    append(tmp_path / "benchmarks" / "results" / "bench.csv", [PLAIN, QUICK, FAILED])
    assert build("bench", "--check") == 1
    printed = capsys.readouterr().out
    assert "speed.md differs" in printed and "bench-embedded-cpu.svg differs" in printed
    assert build("bench") == 0 and build("bench", "--check") == 0
    text = page.read_text()
    assert text.startswith("before\n\n<!-- bench -->\n\nModel `embedded`: some CPU, 2 cores, 2 threads, torch 2.13.0, ")
    assert "openvino 2026.4" in text and "onnx" not in text and "commit 0123456789ab," in text and "load" not in text
    assert "| denoiser | openvino | bf16 | 2 | 10 | 4.00 | 1.2e-02 |" in text and text.endswith(
        "<!-- /bench -->\n\nafter\n"
    )
    assert "Without a figure: denoiser ort:fp32, batch 2: killed." in text
    again = dataclasses.replace(QUICK, run="2026-01-02T00:00:00+00:00", ms_sample=8.0, load_average=9.0)
    append(tmp_path / "benchmarks" / "results" / "bench_2.csv", [again])
    assert build("bench", "--check") == 1 and build("bench") == 0
    text = page.read_text()
    assert text.count("openvino | bf16") == 1 and "| 8 | 4.00 |" in text and "load average up to 9.0" in text


def test_a_page_without_the_place_is_an_error(build: Build, tmp_path: Path) -> None:
    make_page(tmp_path / "docs" / "results" / "speed.md")
    with pytest.raises(SystemExit, match="has no place for the table: add <!-- bench -->"):
        build("bench")
    with pytest.raises(SystemExit, match=r"presets\.md has no place for the table: add <!-- presets -->"):
        build("presets")


def test_unknown_tables_are_refused(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build("speed")
    assert "unknown table 'speed'; known: bench, gpu, presets, generalisation, ideas, eval" in capsys.readouterr().err


def test_tables_of_presets_are_written(build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = make_page(tmp_path / "docs" / "results" / "presets.md", "presets", "ablation")
    assert build("presets", "--check") == 1 and "| preset |" not in page.read_text()
    assert build("presets") == 0 and build("presets") == 0
    assert capsys.readouterr().out.splitlines() == [
        "docs/results/presets.md differs",
        "docs/results/presets.md written",
    ]
    text = page.read_text()
    assert text.startswith("before\n\n<!-- presets -->\n\n| preset |")
    assert text.endswith("<!-- ablation -->\n<!-- /ablation -->\n\nafter\n")


def test_figures_of_a_gpu(build: Build, tmp_path: Path) -> None:
    page = make_page(tmp_path / "docs" / "results" / "gpu.md", "gpu-summary", "gpu")
    assert build("gpu", "--check") == 0
    plain = dataclasses.replace(
        PLAIN, dtype="fp16", preset="exact", gpu="some GPU", driver="1.2", cpu="some CPU", note="eager"
    )
    large = dataclasses.replace(plain, model="random:sd15", parity=0.001, tflops=5.0, share=0.125)
    images = dataclasses.replace(plain, subject="sampler", images=8, ms_sample=36.0, images_per_hour=100_000.0)
    rows = [
        dataclasses.replace(plain, subject="ceiling", network="matmul", tflops=40.0),
        large,
        dataclasses.replace(large, note="CUDA graph", ms_median=32.0, tflops=12.5),
        dataclasses.replace(large, engine="compile", note="CUDA graph", ms_median=20.0, tflops=20.0, share=None),
        dataclasses.replace(large, dtype="bf16", note="CUDA graph", ms_median=30.0),
        dataclasses.replace(large, subject="vae", network="vae_decoder", ms_median=50.0),
        dataclasses.replace(large, batch=4, ms_median=None, error="out of memory"),
        dataclasses.replace(images, engine="official", images_per_hour=1000.0),
        images,
        dataclasses.replace(images, note="CUDA graph", images_per_hour=250_000.0, x_official=250.0, psnr=50.0),
        dataclasses.replace(images, subject="generate", note="CUDA graph", images_per_hour=200_000.0),
    ]
    append(tmp_path / "benchmarks" / "results" / "gpu_check_some.csv", rows)
    (tmp_path / "benchmarks" / "results" / "gpu_check_some_steps.csv").write_text("step,state\n")
    assert build("gpu", "--check") == 1 and build("gpu") == 0 and build("gpu", "--check") == 0
    text = page.read_text()
    assert "some GPU, driver 1.2, some CPU, torch 2.13.0, 2026-01-01. Ceilings: matmul 40 TFLOP/s." in text
    assert "| 2 | 80 | 32 | 20 | 4.00 | 20 | 0.500 | 1.0e-03 |" in text and "| 4 |" not in text
    assert "| denoiser | `random:sd15` | bf16 | CUDA graph | 2 | 30 | 5 | 0.125 |" in text
    assert "| vae_decoder | `random:sd15` | fp16 | eager | 2 | 50 |" in text
    assert "| sampler | `embedded` | `exact` | CUDA graph | fp16 | 2 | 250,000 | 250.0 | 50.0 |  |" in text
    assert "One some GPU, fp16, preset `exact`, batch 2: 250,000 images/hour with the denoiser as a CUDA graph" in text
    assert (
        "100,000 without it, 1,000 with the published schedule." in text
        and "makes 200,000." in text
        and "Stable Diffusion 1.5 2.50 times as fast at batch 2" in text
        and "compiled by AOTInductor, 4.00 and 4.00 times as fast." in text
    )
    assert text.startswith("before\n") and text.endswith("\nafter\n")
