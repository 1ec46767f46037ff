"""benchmarks/studies/presets.py: the cells of its ablation, and a very small run of them."""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dgkit.diffusion.loading import open_model
from dgkit.diffusion.model_folder import ModelDefaults, ModelInfo
from dgkit.diffusion.presets import PRESETS, Preset, find_preset
from dgkit.diffusion.sampling_plan import SamplingPlan
from tests.benchmarks.scripts import BENCHMARKS, load_script
from tests.models import make_micro_model
from tests.scenes import make_label


@pytest.fixture
def scripts() -> Iterator[dict[str, ModuleType]]:
    """presets.py, preset_cost.py and what they share, by name."""
    with load_script("studies/presets") as presets, load_script("studies/preset_cost") as cost:
        yield {"presets": presets, "preset_cost": cost, "preset_cells": sys.modules["preset_cells"]}


def fields(preset: Preset) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(preset).items() if key != "name"}


def test_settings_are_the_whole_difference_between_fast_and_exact(scripts: dict[str, ModuleType]) -> None:
    script = scripts["preset_cells"]
    exact, fast = fields(PRESETS["exact"]), fields(PRESETS["fast"])
    named = {field for group in script.SETTINGS.values() for field in group}
    assert {field for field in exact if exact[field] != fast[field]} <= named
    cells = script.ablation_cells()
    assert next(iter(cells)) == "exact" and len(cells) == 2 + 2 * len(script.SETTINGS)
    for name, group in script.SETTINGS.items():
        alone, without = (fields(find_preset(cells[cell][0])) for cell in (name, f"fast without {name}"))
        assert alone == {**exact, **{field: fast[field] for field in group}} != exact
        assert without == {**fast, **{field: exact[field] for field in group}} != fast
        assert (cells[name][1], cells[f"fast without {name}"][1]) == ("exact", "fast")


def test_no_setting_costs_evaluations(scripts: dict[str, ModuleType]) -> None:
    info, label = open_model().info, make_label(0, 256, 256)
    cells = scripts["preset_cells"].ablation_cells()
    costs = {name: SamplingPlan(find_preset(cell), info).cost(label).total for name, (cell, _) in cells.items()}
    assert costs["exact"] == 1040
    for name in scripts["preset_cells"].SETTINGS:
        assert costs[name] <= costs["exact"] and costs[f"fast without {name}"] >= costs["fast"]
    text = scripts["preset_cost"].table(cells, [label, label], info, None)
    assert f"| fast | {costs['fast']}.0 | {costs['fast']} | {costs['fast']} |" in text
    assert f"{2 * sum(costs.values()):,} evaluations for 2 images" in text


def test_operations_are_those_of_the_calls(scripts: dict[str, ModuleType]) -> None:
    """Evaluations times the denoiser; the VAE once at label size, and twice enlarged with a second pass."""
    script = scripts["preset_cost"]
    info, label = open_model("random:tiny").info, make_label(0, 64, 64)
    cost = script.Cost.of("tiny", (64, 64), 2)
    assert 3 < cost.large_decoder / cost.decoder < 5 and min(dataclasses.astuple(cost)) > 0
    large = dataclasses.replace(cost, denoiser=1.0, condition=0.0, decoder=10.0, large_encoder=100.0, large_decoder=2e3)
    given = {"exact": ("exact", "exact"), "one": ("one-pass", "exact"), "latent": ("exact:bridge=latent", "exact")}
    rows = [line.split(" | ") for line in script.table(given, [label], info, large).splitlines()[2:5]]
    assert [[float(cell.strip("| ")) for cell in row[4:]] for row in rows] == [
        [1040, 2110, 3150], [40, 10, 50], [1040, 2000, 3040]
    ]  # fmt: skip


def test_cells_and_ablation_cannot_be_combined(
    scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["presets.py", str(tmp_path), "--ablation", "--cells", "fast"])
    with pytest.raises(SystemExit):
        scripts["presets"].main()
    assert "--ablation and --cells cannot be combined" in capsys.readouterr().err


def test_ablation_is_run_and_continued(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "exact", dataclasses.replace(PRESETS["exact"], steps=3, stride=1.0))
    monkeypatch.setitem(PRESETS, "fast", dataclasses.replace(PRESETS["fast"], steps=2, stride=1.0))
    script, model = scripts["presets"], make_micro_model(tmp_path / "model")
    options = ["--leads", "--model", str(model), "--device", "cpu", "--dtype", "fp32", "--batch", "64", "--count", "2",
               "--scenes", "2", "--workers", "0", "--results", str(tmp_path / "results")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["presets.py", str(tmp_path / "work"), *options])
    real, drawn = script.Study.drawn, []

    def stop_at_the_fourth(self: Any, preset: Preset) -> Any:
        drawn.append(preset.name)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return real(self, preset)

    monkeypatch.setattr(script.Study, "drawn", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        script.main()
    script.main()
    cells = scripts["preset_cells"].ablation_cells()
    assert len(drawn) == len(cells) + 1 and drawn[3] == drawn[4]  # only the interrupted cell is drawn twice
    assert not (tmp_path / "results" / "presets.csv").exists()
    with open(tmp_path / "results" / "preset_leads.csv", newline="", encoding="utf-8") as file:
        rows = {row["cell"]: row for row in csv.DictReader(file)}
    assert [(row["settings"], row["base"]) for row in rows.values()] == list(cells.values())
    assert list(rows) == list(cells) and all(row["images"] == "2" for row in rows.values())
    assert float(rows["exact"]["samples"]) == 2 * 3 * (1 + 4)
    assert float(rows["fast"]["samples"]) < float(rows["fast without late start"]["samples"])


def test_recorded_presets_have_their_present_settings() -> None:
    """The records of presets.csv hold only while the presets keep their settings."""
    config = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
              "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}  # fmt: skip
    info = ModelInfo("city", 32, 8, 8, 28, 128, 64, 1.0, config, ModelDefaults(guidance_scale=1.2))
    with (BENCHMARKS / "results" / "presets.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        plan = SamplingPlan(PRESETS[row["cell"]], info)
        assert plan.samples(plan.first) == float(row["samples_first"])
