"""The tables of docs/presets.md have the figures of benchmarks/results."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path("benchmarks", "preset_table.py")


def rows() -> dict[str, dict[str, str]]:
    with open(ROOT / "benchmarks" / "results" / "presets.csv", newline="", encoding="utf-8") as file:
        return {row["cell"]: row for row in csv.DictReader(file)}


def test_tables_are_those_of_the_records() -> None:
    result = subprocess.run([sys.executable, str(SCRIPT), "--check"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, f"{result.stdout}{result.stderr}run python {SCRIPT}"


def test_presets_are_what_was_measured() -> None:
    """Other settings under the same name would make the record a lie."""
    from dgkit.diffusion.model_folder import ModelDefaults, ModelInfo
    from dgkit.diffusion.presets import PRESETS
    from dgkit.diffusion.sampling_plan import SamplingPlan

    config = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
              "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}  # fmt: skip
    info = ModelInfo("city", 32, 8, 8, 28, 128, 64, 1.0, config, ModelDefaults(guidance_scale=1.2))
    for name, row in rows().items():
        plan = SamplingPlan(PRESETS[name], info)
        assert plan.samples(plan.first) == float(row["samples_first"])
