"""``dgkit bench`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dgkit.bench import benchmark as run
from dgkit.bench.bench_config import BenchConfig
from dgkit.bench.rows import BenchRow
from dgkit.cli.app import main

ROWS = [
    BenchRow("r", "ceiling", "matmul", dtype="fp32", tflops=1.5, ms_median=2.0),
    BenchRow("r", "denoiser", "denoiser", "torch", "fp32", 2, ms_median=3.0, ms_sample=1.5, parity=0.0),
    BenchRow("r", "denoiser", "denoiser", "ort", "fp32", 2, error="killed"),
]


@pytest.fixture()
def configs(monkeypatch: pytest.MonkeyPatch) -> list[BenchConfig]:
    seen: list[BenchConfig] = []

    def bench(config: BenchConfig, *, progress: Any, show: Any) -> list[BenchRow]:
        seen.append(config)
        progress("bench", 0, 1, "something")
        for row in ROWS:
            show(row)
        return ROWS

    monkeypatch.setattr(run, "bench", bench)
    return seen


def test_options_reach_the_settings(configs: list[BenchConfig], capsys: pytest.CaptureFixture[str]) -> None:
    words = "bench denoiser vae --engines torch,ort --dtypes fp32,bf16 --batches 1,8 --random tiny --against official"
    assert main([*words.split(), "--seconds", "2.5", "--no-ceilings", "--no-parity", "--together", "--json"]) == 0
    (config,) = configs
    assert config.subjects == ("denoiser", "vae") and config.engines == ("torch", "ort")
    assert config.dtypes == ("fp32", "bf16") and config.batches == (1, 8) and config.model == "random:tiny"
    assert (config.against, config.seconds, config.ceilings, config.together) == ("official", 2.5, False, True)
    assert not config.parity
    found = capsys.readouterr()
    rows = json.loads(found.out)["rows"]
    assert [row["error"] for row in rows] == ["", "", "killed"] and rows[1]["ms_sample"] == 1.5
    assert "ceiling matmul fp32: 1.5 TFLOP/s" in found.err and "denoiser ort:fp32, batch 2: failed; killed" in found.err


def test_table(configs: list[BenchConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 0
    assert configs == [BenchConfig()]
    text = capsys.readouterr().out
    assert "denoiser" in text and "ceiling matmul" in text and "x published" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--model here --random tiny", "the model here and --random tiny cannot be combined"),
        ("--batches two", "batches.0='two' is not allowed"),
        ("--repeats 1", "repeats=1 is not allowed"),
        ("nonsense", "unknown subject 'nonsense'"),
        ("vae --against official", "--against official does not apply to vae"),
    ],
)
def test_wrong_options(words: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bench", *words.split()]) == 2
    assert said in capsys.readouterr().err
