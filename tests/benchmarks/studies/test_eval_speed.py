"""Summary and table of eval_speed.py; what it measures is tested with ``dgkit eval``."""

import argparse
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from dgkit.engines.runner import DTYPES, RUNNERS
from tests.benchmarks.scripts import load_script


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with load_script("studies/eval_speed") as module:
        yield module


def measured(rate: float, miou: float, peak: float) -> dict[str, Any]:
    return {"images_per_second": rate, "miou": miou, "peak_mib": peak, "gpu_mib": 0.0, "device": "cpu"}


def test_medians_and_the_largest_peak(script: ModuleType) -> None:
    given = argparse.Namespace(count=6, height=1024, batch=4, backbone="mit_b0", note="")
    loop = [measured(rate, 7.05, 900) for rate in (0.5, 0.4, 0.9)]
    ours = [measured(rate, 7.046, peak) for rate, peak in ((2.0, 800), (1.0, 850), (1.5, 700))]
    row = script.summary("openvino", ours, loop, given)
    assert (row["images_per_second"], row["slowest"], row["fastest"], row["x_mmseg"]) == (1.5, 1.0, 2.0, 3.0)
    assert (row["peak_mib"], row["miou_off"], row["repeats"], row["size"]) == (850, -0.004, 3, "2048x1024")
    base = script.summary("mmseg", loop, loop, given)
    assert (base["engine"], base["batch"], base["x_mmseg"]) == ("mmsegmentation", 1, 1.0)
    assert script.table([base, row])[3] == "| openvino | 1.50 | 3.00 | 7.05 | 850 |"
    assert script.summary("torch", ours, None, given)["x_mmseg"] == ""
    vit = script.summary("vit-openvino", ours, loop, given)
    assert (vit["loop"], vit["network"], row["loop"]) == ("pipeline", "DINOv2-S, linear", "mmseg")


def test_variants_exist(script: ModuleType) -> None:
    assert all(engine in RUNNERS and dtype in DTYPES for engine, dtype in script.VARIANTS.values())
    assert {*script.ON_CPU.split(","), *script.ON_GPU.split(",")} <= {script.LOOP, script.PIPELINE, *script.VARIANTS}
