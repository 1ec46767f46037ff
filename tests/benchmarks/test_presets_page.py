"""The table of docs/presets.md has the figures of benchmarks/results/presets.csv."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def rows() -> dict[str, dict[str, str]]:
    with open(ROOT / "benchmarks" / "results" / "presets.csv", newline="", encoding="utf-8") as file:
        return {row["cell"]: row for row in csv.DictReader(file)}


def test_table_is_that_of_the_record() -> None:
    measured = rows()
    text = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `([\w-]+)` \| ([\d.]+) \| ([\d.]+) \| (.+?) \| (.+?) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert [line[0] for line in lines] == ["official", "exact", "one-pass", "fast", "turbo"]
    for name, samples, fewer, *quality, distance in lines:
        row = measured[name]
        assert float(samples) == pytest.approx(float(row["samples"]), abs=0.05)
        assert float(fewer) == pytest.approx(float(row["fewer"]), abs=0.051)
        assert float(distance) == pytest.approx(float(row["frechet_distance"]), abs=0.0051)
        for cell, metric in zip(quality, ("miou", "small_miou"), strict=True):
            figures = [float(figure) for figure in re.findall(r"[-+]?[\d.]+", cell)]
            expected = [100 * float(row[metric]), float(row[f"d_{metric}"]), float(row[f"d_{metric}_sd"])]
            assert figures == pytest.approx(expected[: len(figures)], abs=0.051)
            assert len(figures) == (1 if name == "exact" else 3)


def test_presets_are_what_was_measured() -> None:
    """Other settings under the same name would make the record a lie."""
    from dgkit.diffusion.folder import ModelDefaults, ModelInfo
    from dgkit.diffusion.plan import SamplingPlan
    from dgkit.diffusion.presets import PRESETS

    config = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
              "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}  # fmt: skip
    info = ModelInfo("city", 32, 8, 8, 28, 128, 64, 1.0, config, ModelDefaults(guidance_scale=1.2))
    for name, row in rows().items():
        plan = SamplingPlan(PRESETS[name], info)
        assert plan.samples(plan.first) == float(row["samples_first"])
