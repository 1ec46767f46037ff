"""An existing folder lends its settings; only what is stated is compared, before anything is loaded."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dgkit.config import dump_config, load_config
from dgkit.errors import OutputError, UsageError
from dgkit.generation import resuming
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.resuming import run_settings, with_spacing
from dgkit.generation.writer import OutputFolder

MADE = {
    "count": 12, "labels": Path("/maps"), "encoding": "cityscapes_ids", "preset": "turbo", "engine": "torch",
    "dtype": "bf16", "seed": 5, "batch": 6, "workers": 0, "steps": 3, "size": (64, 96), "source_digest": "s",
    "model_digest": "m", "style_mix": "night", "rebuild": "always",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    return make_folder(tmp_path / "out")


def make_folder(path: Path, **changes: Any) -> OutputFolder:
    path.mkdir()
    (path / "config.yaml").write_text(dump_config(GenerateConfig(**{**MADE, **changes})))
    return OutputFolder(path)


def test_a_new_folder_gets_the_given_settings(tmp_path: Path) -> None:
    config = run_settings(OutputFolder(tmp_path / "new"), GenerateConfig(labels=tmp_path, seed=3))
    assert (config.labels, config.seed, config.world) == (tmp_path, 3, None)


def test_an_existing_folder_lends_what_is_not_stated(folder: OutputFolder) -> None:
    config = run_settings(folder, load_config(GenerateConfig, count=20))
    expected = {**MADE, "count": 20, "rebuild": "auto", "source_digest": None, "model_digest": None}
    assert {key: getattr(config, key) for key in expected} == expected
    assert config.world is None


@pytest.mark.parametrize(
    ("stated", "message", "hint"),
    [
        ({"seed": 6}, "seed: 5 -> 6", "omit --seed to continue"),
        ({"seed": 0}, "seed: 5 -> 0", "omit --seed"),  # a default counts once it is stated
        ({"preset": "exact", "dtype": "fp32"}, "dtype: bf16 -> fp32; preset: turbo -> exact", "--dtype, --preset"),
        ({"count": 11}, "count: 12 -> 11", "omit --count"),
        ({"world": 64}, "labels: /maps -> None; world: None -> 64", "omit --world to"),
        ({"engine_recipe": {"engine": "ort"}}, "engine: torch -> ort", "choose another output folder"),
        ({"judge": Path("/judge.onnx")}, "judge: None -> /judge.onnx", "omit --judge"),
        ({"style_mix": "uniform"}, "style_mix: night -> uniform", "--style-mix"),
    ],
)
def test_a_stated_setting_that_differs_is_refused(
    folder: OutputFolder, stated: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(OutputError) as caught:
        run_settings(folder, load_config(GenerateConfig, **stated))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_stated_values_may_equal_those_of_the_folder(folder: OutputFolder) -> None:
    stated = {"seed": 5, "size": "64x96", "labels": "/maps", "engine": "torch", "style_mix": "night"}
    assert run_settings(folder, load_config(GenerateConfig, **stated)).encoding == "cityscapes_ids"


def test_what_is_left_to_dgkit_is_that_of_the_folder(tmp_path: Path) -> None:
    """The command that made the folder resumes it, also with --engine auto and for a shard, whose batch is fixed."""
    made = make_folder(tmp_path / "out", shard=(1, 2))
    stated = {"engine": "auto", "dtype": "auto", "batch": "auto", "preset": None}
    config = run_settings(made, GenerateConfig.model_validate(stated))
    assert {key: getattr(config, key) for key in stated} == {key: MADE[key] for key in stated}


def test_a_table_of_jobs_has_as_many_images_as_rows(tmp_path: Path) -> None:
    made = make_folder(tmp_path / "out", labels=None, jobs=tmp_path / "jobs.csv", jobs_digest="j")
    with pytest.raises(UsageError, match="--count 13 with a table of 12 jobs"):
        run_settings(made, load_config(GenerateConfig, count=13))
    assert run_settings(made, load_config(GenerateConfig, count=12)).count == 12


def test_paths_may_differ_until_their_content_is_known(folder: OutputFolder) -> None:
    config = run_settings(folder, load_config(GenerateConfig, labels="/moved", model="/model"))
    assert (config.labels, config.model, config.source_digest, config.model_digest) == (
        Path("/moved"), "/model", None, None,
    )  # fmt: skip


def test_more_workers_than_cores_are_chosen_again(folder: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_folder(folder.path.parent / "other", workers=4)
    monkeypatch.setattr(resuming, "usable_cores", lambda: [0, 1])
    assert run_settings(made, GenerateConfig()).workers == "auto"
    assert run_settings(made, GenerateConfig(workers=3)).workers == 3
    monkeypatch.setattr(resuming, "usable_cores", lambda: [0, 1, 2, 3])
    assert run_settings(made, GenerateConfig()).workers == 4


@pytest.mark.parametrize(
    ("preset", "scheduler", "stated", "found"),
    [
        ("fast", {"timestep_spacing": "trailing"}, None, "trailing"),
        ("exact", {}, None, "leading"),
        ("fast", {}, "leading", "leading"),  # the images of the version that made the folder
        ("fast", {}, "linspace", "linspace"),
        ("fast:spacing=trailing", {}, None, "trailing"),
        ("exact:solver=lcm", {}, None, None),
    ],
)
def test_a_folder_of_an_earlier_version_keeps_its_timesteps(
    tmp_path: Path, preset: str, scheduler: dict[str, Any], stated: str | None, found: str | None
) -> None:
    made = make_folder(tmp_path / "out", preset=preset, steps=None)
    lent = run_settings(made, load_config(GenerateConfig, **({"spacing": stated} if stated else {})))
    config = with_spacing(made, lent, scheduler)
    assert config.spacing == found
    made.config_path.write_text(dump_config(config))
    assert with_spacing(made, run_settings(made, GenerateConfig()), scheduler).spacing == found
    with pytest.raises((OutputError, UsageError), match="spacing"):
        other = "trailing" if found != "trailing" else "leading"
        with_spacing(made, run_settings(made, load_config(GenerateConfig, spacing=other)), scheduler)


def test_timesteps_that_nothing_tells_are_refused(tmp_path: Path) -> None:
    made = make_folder(tmp_path / "out", preset="fast")
    with pytest.raises(OutputError, match="does not state the timestep spacing") as caught:
        with_spacing(made, run_settings(made, GenerateConfig()), {})
    assert "--set spacing=leading" in caught.value.hint
    with pytest.raises(OutputError, match="spacing: trailing -> leading"):
        with_spacing(made, run_settings(made, load_config(GenerateConfig, spacing="leading")),
                     {"timestep_spacing": "trailing"})  # fmt: skip
    new = OutputFolder(tmp_path / "new")
    assert with_spacing(new, GenerateConfig(preset="fast"), {}).spacing == "linspace"


def test_the_command_refuses_within_a_second_and_without_torch(folder: OutputFolder) -> None:
    code = (
        "import sys; from dgkit.cli.app import main; code = main(sys.argv[1:]); "
        "print(code, [name for name in ('torch', 'diffusers', 'transformers', 'cv2') if name in sys.modules])"
    )
    arguments = ["generate", str(folder.path), "--seed", "9", "--count", "20"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.stdout == "1 []\n", done.stderr
    assert "made with other settings (seed: 5 -> 9)" in done.stderr
    started = time.process_time()
    with pytest.raises(OutputError):
        run_settings(folder, load_config(GenerateConfig, seed=9))
    assert time.process_time() - started < 1
