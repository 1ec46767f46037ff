"""Checkpoints survive kills, full disks and other settings."""

import json
import os
import resource
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dgkit.errors import DgkitError, ModelError, OutputError, UsageError
from dgkit.training.loop import checkpoint
from dgkit.training.loop.optimisation import Optimisation
from dgkit.training.loop.trainer import fit
from tests import fits
from tests.fits import SETTINGS, Toy, toy_fit

TIMEOUT = 300


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("*"))


def log(folder: Path) -> list[str]:
    """Return the lines of the log without the seconds."""
    return [line.rpartition(",")[0] for line in (folder / "log.csv").read_text().splitlines()]


def check_newest(folder: Path) -> int:
    """Return the step of the newest checkpoint, which must be complete; 0 if there is none."""
    found = checkpoint.list_checkpoints(folder / "checkpoints")
    if not found:
        return 0
    state = checkpoint.read_state(found[-1])
    assert found[-1].name == f"step_{state['step']:08d}"
    assert load_file(found[-1] / "model.safetensors").keys() == load_file(found[-1] / "ema.safetensors").keys()
    assert torch.load(found[-1] / "optimizer.bin", weights_only=True)["state"]
    return state["step"]


def killed(server, target, *arguments) -> bool:
    process = server.Process(target=target, args=arguments)
    process.start()
    process.join(TIMEOUT)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def test_kills_between_steps_and_within_checkpoints_lose_nothing(tmp_path, server):
    """One run, killed repeatedly: while the first checkpoint is written, while it is renamed, and while the one before
    is removed."""
    torch.set_num_threads(1)
    settings = {"steps": 15, "keep": 1, "validate_every": 4}
    cut = tmp_path / "cut"
    assert killed(server, fits.killed_after, cut, 2, settings) and check_newest(cut) == 0
    reached, left = [], set()
    for operation in (4, 9, 19, 26, 38, 34, 36):
        assert killed(server, fits.killed_at, cut, operation, settings)
        reached.append(check_newest(cut))
        left |= {name.rpartition(".")[2] for name in names(cut) if name.startswith(".")}
    assert reached == sorted(reached) and reached[0] == 0 and 0 < reached[-1] < 15
    assert left == {"new", "old"}
    assert killed(server, fits.killed_after, cut, 14, settings)
    last = toy_fit(cut, Toy(0.2), **settings)
    whole = toy_fit(tmp_path / "whole", Toy(0.2), **settings)
    expected, found = whole.module.state_dict(), last.module.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert log(tmp_path / "whole") == log(cut) and names(cut) == names(tmp_path / "whole") == ["step_00000015"]
    assert (tmp_path / "whole" / "validation.csv").read_text() == (cut / "validation.csv").read_text()


def test_the_newest_are_kept(tmp_path):
    toy_fit(tmp_path, steps=11, keep=3, checkpoint_every=2)
    assert names(tmp_path) == ["step_00000008", "step_00000010", "step_00000011"]


def test_half_written_checkpoints_are_removed_and_never_resumed_from(tmp_path):
    toy_fit(tmp_path, steps=3)
    folder = tmp_path / "checkpoints"
    for left in (".step_00000006.new", ".step_00000002.old"):
        shutil.copytree(folder / "step_00000003", folder / left)
    (folder / "notes").mkdir()
    toy_fit(tmp_path, steps=4)
    assert names(tmp_path) == ["notes", "step_00000003", "step_00000004"]


@pytest.mark.parametrize(
    "change", [{"batch": 8}, {"lr": 1e-3}, {"precision": "bf16"}, {"ema": 0.5}, {"schedule": "cosine"}, {"warmup": 3}]
)
def test_a_changed_setting_is_named(tmp_path, change):
    toy_fit(tmp_path, steps=3)
    (name,) = change
    with pytest.raises(UsageError, match=rf"^{name}={change[name]!r} differs from {name}=.*step_00000003") as caught:
        toy_fit(tmp_path, steps=4, **change)
    assert f"resume with {name}=" in caught.value.hint


def test_a_changed_identity_is_named(tmp_path):
    toy_fit(tmp_path, steps=3)
    other = Toy()
    other.identity |= {"seed": 1}
    with pytest.raises(UsageError, match=r"^seed=1 differs from seed=0"):
        toy_fit(tmp_path, other)
    other.identity, other.name = Toy().identity, "stage"
    with pytest.raises(UsageError, match=r"^task='stage' differs from task='toy'"):
        toy_fit(tmp_path, other)


def test_a_reward_cannot_be_added_to_a_checkpoint_of_an_earlier_version(tmp_path):
    toy_fit(tmp_path, steps=3)
    other = Toy()
    other.identity |= {"reward": {"weight": 0.5}}
    with pytest.raises(UsageError, match=r"^reward=.* differs from reward=None"):
        toy_fit(tmp_path, other)
    other.identity |= {"reward": None}
    toy_fit(tmp_path, other)


def test_free_settings_may_change(tmp_path):
    toy_fit(tmp_path, steps=3)
    toy_fit(tmp_path, steps=4, keep=1, log_every=2, checkpoint_every=1, validate_every=2)
    assert names(tmp_path) == ["step_00000004"]


def test_fewer_steps_than_done_are_refused(tmp_path):
    toy_fit(tmp_path, steps=3)
    with pytest.raises(UsageError, match=r"steps=2 is less than the 3 steps"):
        toy_fit(tmp_path, steps=2)


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.bin", "state.json"])
def test_a_damaged_checkpoint_is_named(tmp_path, name):
    toy_fit(tmp_path, steps=3)
    path = tmp_path / "checkpoints" / "step_00000003" / name
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ModelError, match="step_00000003 cannot be read") as caught:
        toy_fit(tmp_path)
    assert "delete that folder" in caught.value.hint


def newest(folder: Path) -> Path:
    return checkpoint.list_checkpoints(folder / "checkpoints")[-1]


def strip_digests(path: Path) -> None:
    """Make a checkpoint one of an earlier version."""
    state = json.loads((path / "state.json").read_text())
    del state["files"], state["sha256"]
    (path / "state.json").write_text(json.dumps(state, indent=1))


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "ema.safetensors", "optimizer.bin", "random_states_0.pkl", "state.json"]
)
def test_a_flipped_bit_is_named_with_the_last_good_checkpoint(tmp_path, name):
    toy_fit(tmp_path, steps=6)
    folder = tmp_path / "checkpoints"
    if name == "state.json":
        text = (newest(tmp_path) / name).read_text()
        (newest(tmp_path) / name).write_text(text.replace('"pending": []', '"pending": [7.5]'))
    else:
        flip_bit(newest(tmp_path) / name)
    with pytest.raises(ModelError, match=rf"step_00000006 cannot be read: {name} differs from the SHA-256") as caught:
        toy_fit(tmp_path)
    assert caught.value.hint == f"delete that folder to resume from {folder / 'step_00000003'}"
    flip_bit(folder / "step_00000003" / "optimizer.bin")
    with pytest.raises(ModelError) as caught:
        toy_fit(tmp_path)
    assert caught.value.hint == "delete that folder to start again: there is no intact earlier checkpoint"


def test_a_missing_file_of_a_checkpoint_is_named(tmp_path):
    toy_fit(tmp_path, steps=3)
    (newest(tmp_path) / "random_states_0.pkl").unlink()
    with pytest.raises(ModelError, match=r"random_states_0\.pkl is missing"):
        toy_fit(tmp_path)


def test_a_checkpoint_without_digests_is_resumed_if_it_is_finite(tmp_path):
    toy_fit(tmp_path, steps=3)
    strip_digests(newest(tmp_path))
    resumed, whole = toy_fit(tmp_path), toy_fit(tmp_path / "whole")
    assert torch.equal(resumed.module[0].weight, whole.module[0].weight)


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors"])
def test_a_nan_in_a_checkpoint_without_digests_is_refused(tmp_path, name):
    toy_fit(tmp_path, steps=3)
    strip_digests(newest(tmp_path))
    weights = load_file(newest(tmp_path) / name)
    weights["0.bias"][2] = float("nan")
    save_file(weights, newest(tmp_path) / name)
    with pytest.raises(ModelError, match=rf"0\.bias in {name} holds values that are not finite"):
        toy_fit(tmp_path)


@pytest.mark.parametrize("part", ["weights", "average", "optimizer"])
def test_values_that_are_not_finite_are_never_written(tmp_path, monkeypatch, part):
    toy_fit(tmp_path, steps=3)
    write = checkpoint._check_finite

    def spoil(folder, parts, step):
        with torch.no_grad():
            if part == "weights":
                parts.module[0].bias[0] = float("inf")
            elif part == "average":
                parts.average.shadow_params[0][0] = float("nan")
            else:
                next(iter(parts.accelerator._optimizers[0].state.values()))["exp_avg"][0] = float("nan")
        write(folder, parts, step)

    monkeypatch.setattr(checkpoint, "_check_finite", spoil)
    with pytest.raises(DgkitError, match=r"not finite at step 6; the last good checkpoint is .*step_00000003"):
        toy_fit(tmp_path)
    assert names(tmp_path) == ["step_00000003"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "7", "[" * 100_000, '{"step": "3"}', '{"step": 3}', '{"step": true}', "\0", '{"a":' * 50_000),
        '{"step": 3, "meter": {"pending": ["a"], "recent": []}, "settings": {}, "identity": {}}',
        '{"step": 4, "meter": {"pending": [], "recent": []}, "settings": {}, "identity": {}}',
        '{"step": 3, "meter": {"pending": [], "recent": []}, "settings": {}, "identity": {}, "files": 3}',
    ],
)
def test_a_state_that_is_no_state_is_one_line(tmp_path, text):
    toy_fit(tmp_path, steps=3)
    (newest(tmp_path) / "state.json").write_text(text)
    with pytest.raises(ModelError, match="step_00000003 cannot be read: ") as caught:
        toy_fit(tmp_path)
    assert len(caught.value.message) < 400 and "\n" not in caught.value.message


def test_a_second_training_in_the_folder_is_refused(tmp_path):
    def second(stage: str, done: float, total: float, note: str = "") -> None:
        with pytest.raises(OutputError, match="another run is writing to"):
            toy_fit(tmp_path)

    fit(Toy(), Optimisation(**SETTINGS), tmp_path, progress=second)
    assert log(tmp_path) == log_of_steps(8)


def log_of_steps(steps: int) -> list[str]:
    """Return the log of an undisturbed training without the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        toy_fit(Path(folder), steps=steps)
        return log(Path(folder))


def test_a_checkpoint_of_another_module_is_refused(tmp_path):
    toy_fit(tmp_path, steps=3)
    other = Toy()
    other.module.append(nn.Linear(1, 1))
    with pytest.raises(ModelError, match="other parameters"):
        toy_fit(tmp_path, other)


def test_frozen_weights_are_not_stored(tmp_path):
    toy = Toy()
    toy.module[0].requires_grad_(False)
    toy_fit(tmp_path, toy, steps=3)
    assert load_file(tmp_path / "checkpoints" / "step_00000003" / "model.safetensors").keys() == {"3.weight", "3.bias"}
    again = Toy()
    again.module[0].requires_grad_(False)
    toy_fit(tmp_path, again, steps=5)
    assert torch.equal(again.module[0].weight, Toy().module[0].weight)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path, monkeypatch, error):
    toy_fit(tmp_path, steps=3)

    def full(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched, pytest.raises(OutputError) as caught:
        patched.setattr(checkpoint, "save_file", full)
        toy_fit(tmp_path)
    folder = tmp_path / "checkpoints"
    expected = f"cannot write {folder}: the disk is full; the checkpoint {folder / 'step_00000003'} is intact"
    assert caught.value.message == expected and "run the same command again" in caught.value.hint
    assert names(tmp_path) == ["step_00000003"]
    last, whole = toy_fit(tmp_path), toy_fit(tmp_path / "whole")
    assert torch.equal(last.module[0].weight, whole.module[0].weight)


def test_a_write_that_fails_midway_is_an_error_and_loses_nothing(tmp_path):
    """The file size limit of the process stands for a full disk: torch itself reaches it in the middle of a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        if done == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 13, limits[1]))

    try:
        with pytest.raises(OutputError, match=r"cannot write .*checkpoints: .*step_00000003 is intact"):
            fit(Toy(), Optimisation(**SETTINGS), tmp_path, progress=progress)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["step_00000003"]
    assert json.loads((tmp_path / "checkpoints" / "step_00000003" / "state.json").read_text())["step"] == 3
