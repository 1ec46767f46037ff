"""The measurements of int8.py, on arrays and blocks that need no NNCF and no model."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tests.benchmarks.scripts import BENCHMARKS, ROOT, load_script

pytest.importorskip("openvino", reason="needs openvino: pip install 'dgkit[cpu]'")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with load_script("studies/int8") as module:
        yield module


def test_calls_are_read_from_their_file(script: ModuleType, tmp_path: Path) -> None:
    def call(value: int, **more: int) -> dict[str, np.ndarray]:
        return {name: np.array([number]) for name, number in {"timestep": value, **more}.items()}

    drawn = ([call(9), call(5)], [call(7, prediction=1)])
    network = SimpleNamespace(calibration=SimpleNamespace(draw=lambda: drawn))
    for given in (network, None):
        calls, held_out = script.find_calls(tmp_path, given)
        assert [dict(call) for call in calls] == drawn[0] and dict(held_out) == drawn[1][0]


def test_errors_by_timestep(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter([1.1, 1.0, 1.3])
    monkeypatch.setattr(script, "run", lambda request, inputs: np.full((len(inputs["timestep"]), 4), next(given)))
    found = script.errors(None, {"timestep": np.array([9, 5, 9]), script.OUTPUT: np.ones((3, 4), np.float32)})
    assert found == {9: pytest.approx(0.2), 5: pytest.approx(0.0)}
    cells = script.error_cells(found)
    assert (cells["error"], cells["error_worst"], cells["worst_timestep"]) == ("1.00e-01", "2.00e-01", 9)


def test_psnr(script: ModuleType) -> None:
    expected = np.zeros((2, 4, 4, 3), np.uint8)
    images = expected.copy()
    assert script.psnr_cells(images, expected) == {}
    images[1] = 51  # a fifth of the range: 13.98 dB, over both images 3.01 dB more
    assert script.psnr_cells(images, expected) == {"psnr": 16.99, "psnr_worst": 13.98}


def test_variants_are_compared_by_the_median_of_the_same_rounds(script: ModuleType) -> None:
    assert script.timing_cells([4.0, 2.0, 30.0], [8.0, 8.0, 1.0]) == {
        "calls": 3, "cpu_ms": 4.0, "cpu_ms_least": 2.0, "x_bf16": 2.0
    }  # fmt: skip


def test_blocks_run_in_the_requested_type(script: ModuleType) -> None:
    int8_blocks = sys.modules["int8_blocks"]
    for make, sizes in ((int8_blocks.resnet_block, (1, 32, 4)), (int8_blocks.feed_forward, (1, 8, 32))):
        model = make(*sizes)
        request = script.opened(model, "f32", 1)
        value = np.random.default_rng(0).standard_normal(model.inputs[0].shape).astype(np.float32)
        inputs = {int8_blocks.INPUT: value}
        first = script.run(request, inputs)
        assert first.shape == value.shape and np.isfinite(first).all() and not np.allclose(first, value)
        np.testing.assert_array_equal(script.run(script.opened(make(*sizes), "f32", 1), inputs), first)
        assert script.products(request) == "f32 2"
        spent = script.timed({"one": request, "two": request}, inputs, 2)
        assert [len(calls) for calls in spent.values()] == [2, 2]


def test_row_replaces_that_of_an_earlier_run(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "new" / "int8.csv"
    for variant, speed in (("bf16", 1.0), ("int8", 1.5), ("bf16", 1.1)):
        script.write({"subject": "block", "variant": variant, "x_bf16": speed}, path)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["x_bf16"]) for row in rows] == [("int8", "1.5"), ("bf16", "1.1")]
    assert tuple(rows[0]) == script.COLUMNS


def test_missing_nncf_is_an_error_with_the_pip_command(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    monkeypatch.setattr(sys, "argv", ["int8.py", "work"])
    with pytest.raises(SystemExit):
        script.main()
    assert "[int8]'" in capsys.readouterr().err


def test_decoders_are_compared_on_pictures(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "DECODED", 64)
    given = SimpleNamespace(decoder="random:tiny", threads=1, rounds=1, work=tmp_path)
    exact, low = script.decoder_rows(given, ["fp32", "bf16"])
    assert (exact["subject"], exact["images"], float(exact["error"])) == ("VAE decoder, random:tiny, 64 px", 2, 0)
    assert "psnr" not in exact and low["x_bf16"] == 1.0
    assert 0 < float(low["error"]) < 0.05 and low["psnr"] > 30


def test_table_of_the_page_has_the_recorded_figures() -> None:
    text = (ROOT / "docs" / "guides" / "engines.md").read_text(encoding="utf-8")
    with open(BENCHMARKS / "results" / "int8.csv", newline="", encoding="utf-8") as file:
        rows = {(row["subject"], row["variant"]): row for row in csv.DictReader(file)}
    lines = re.findall(r"^\| (.+?) \| `(.+?)` \| ([\d.]+) \|(.+)\|$", text, re.MULTILINE)
    shown = {(subject, variant) for subject, variant, _, _ in lines}
    assert shown == {key for key, row in rows.items() if key[1] != "fp32" and (row["error"] or key[1] != "bf16")}
    for subject, variant, faster, rest in lines:
        row = rows[subject, variant]
        assert float(faster) == float(row["x_bf16"])
        wanted = [(row["error"], 3), (row["psnr"], 1), (row["psnr_worst"], 1), (row["miou"], 1)]
        assert [cell.strip() for cell in rest.split("|")] == [value and f"{float(value):.{n}f}" for value, n in wanted]
