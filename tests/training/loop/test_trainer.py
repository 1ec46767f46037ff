"""Training in one process and in several: resume, averages, logs, errors."""

import csv
import importlib.util
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dgkit.errors import DgkitError, InputError, MissingDependency, UsageError
from dgkit.training.loop import trainer, training_log
from dgkit.training.loop.optimisation import Optimisation
from dgkit.training.loop.stream import micro_batch
from dgkit.training.loop.trainer import fit
from tests import fits
from tests.fits import SETTINGS, Toy, toy_fit

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT = 300


def weights(toy: Toy) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in toy.module.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=1e-5, atol=1e-6) for name in a)


def log(folder: Path) -> list[dict[str, str]]:
    """Lines of the log without the seconds."""
    with open(folder / "log.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_training_lowers_the_loss(tmp_path):
    toy_fit(tmp_path, steps=60, ema=0.5, checkpoint_every=60)
    losses = [float(row["loss"]) for row in log(tmp_path)]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_a_step_is_one_of_plain_adamw(tmp_path):
    """The reference is written out here: no accelerate, no averaging, no stream."""
    toy = toy_fit(tmp_path, steps=5, ema=0, clip=0.5, schedule="constant", warmup=0, weight_decay=0.1)
    other = Toy()
    optimizer = torch.optim.AdamW(other.module.parameters(), lr=1e-2, weight_decay=0.1, fused=True)
    for step in range(5):
        samples = [other.sample(step * 4 + i) for i in range(4)]
        batch = {key: torch.stack([sample[key] for sample in samples]) for key in ("x", "y")}
        optimizer.zero_grad()
        other.loss(other.module, batch).backward()
        torch.nn.utils.clip_grad_norm_(other.module.parameters(), 0.5)
        optimizer.step()
    assert equal(weights(toy), weights(other))


def test_the_moving_average_is_left_in_the_module(tmp_path):
    every = [weights(toy_fit(tmp_path / str(n), steps=n, ema=0, schedule="constant")) for n in range(1, 6)]
    toy = toy_fit(tmp_path / "ema", steps=5, ema=0.3, schedule="constant")
    average = every[0]
    for step, current in enumerate(every[1:], start=1):
        decay = min(0.3, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * current[name] for name in average}
    assert close(weights(toy), average)
    newest = tmp_path / "ema" / "checkpoints" / "step_00000005"
    assert equal(load_file(newest / "model.safetensors"), every[-1])
    assert equal(load_file(newest / "ema.safetensors"), weights(toy))


def test_micro_steps_equal_one_step_of_the_whole_batch(tmp_path):
    whole = toy_fit(tmp_path / "1")
    split = toy_fit(tmp_path / "2", accumulation=2)
    assert close(weights(whole), weights(split)) and not equal(weights(Toy()), weights(whole))


def test_worker_processes_change_nothing(tmp_path):
    torch.set_num_threads(1)
    assert equal(weights(toy_fit(tmp_path / "0")), weights(toy_fit(tmp_path / "1", workers=1)))


def test_the_samples_of_a_step_are_split_among_the_processes():
    settings = Optimisation(steps=4, batch=12, accumulation=3)
    parts = [list(micro_batch(settings, 2, k, p, 2)) for k in range(3) for p in range(2)]
    assert parts == [[24, 25], [26, 27], [28, 29], [30, 31], [32, 33], [34, 35]]


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"batch=4 .* 1 process.* accumulation=3.* multiples of 3") as caught:
        toy_fit(tmp_path, accumulation=3)
    assert "batch=6" in caught.value.hint


class Stop(Exception):
    """An interruption between two steps."""


def stopped_after(folder: Path, step: int, toy: Toy, **settings) -> None:
    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        if done == step:
            raise Stop

    with pytest.raises(Stop):
        fit(toy, Optimisation(**SETTINGS | settings), folder, progress=progress)


@pytest.mark.parametrize("settings", [{}, {"log_every": 5, "accumulation": 2}, {"precision": "bf16", "workers": 1}])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path, settings):
    torch.set_num_threads(1)
    settings = {"steps": 12, "validate_every": 5, **settings}
    expected = toy_fit(tmp_path / "whole", Toy(0.2), **settings)
    stopped_after(tmp_path / "cut", 8, Toy(0.2), **settings)  # two steps after the checkpoint of step 6
    stopped_after(tmp_path / "cut", 11, Toy(0.2), **settings)
    resumed = toy_fit(tmp_path / "cut", Toy(0.2), **settings)
    assert equal(weights(expected), weights(resumed))
    assert log(tmp_path / "whole") == log(tmp_path / "cut")
    for name in ("validation.csv", "validation/step_00000010_look_day.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_a_finished_training_is_not_done_again(tmp_path):
    first = toy_fit(tmp_path)
    calls: list[int] = []
    again = Toy()
    fit(again, Optimisation(**SETTINGS), tmp_path, progress=lambda *args: calls.append(args[1]))
    assert equal(weights(first), weights(again)) and not calls
    assert [row["step"] for row in log(tmp_path)] == [str(n) for n in range(1, 9)]


def test_a_run_may_be_extended_while_its_rate_is_constant(tmp_path):
    planned = toy_fit(tmp_path / "planned", steps=40, schedule="wsd")
    stopped_after(tmp_path / "grown", 20, Toy(), steps=30, schedule="wsd")
    grown = toy_fit(tmp_path / "grown", steps=40, schedule="wsd")
    assert equal(weights(planned), weights(grown)) and log(tmp_path / "planned") == log(tmp_path / "grown")


def test_micro_steps_may_change_on_resume(tmp_path):
    expected = toy_fit(tmp_path / "whole", batch=12)
    stopped_after(tmp_path / "cut", 4, Toy(), batch=12, accumulation=4)
    resumed = toy_fit(tmp_path / "cut", batch=12, accumulation=3)
    assert close(weights(expected), weights(resumed))


def test_progress_reports_every_step_with_the_smoothed_loss(tmp_path):
    calls: list[tuple[str, int, int, str]] = []
    fit(Toy(), Optimisation(**SETTINGS), tmp_path, progress=lambda *args: calls.append(args))
    losses = [float(row["loss"]) for row in log(tmp_path)]
    assert [call[:3] for call in calls] == [("toy", n, 8) for n in range(1, 9)]
    assert calls[-1][3] == f"loss {np.mean(losses):.4f}"


def test_the_log_has_a_line_per_interval(tmp_path):
    toy_fit(tmp_path / "each", ema=0)
    toy_fit(tmp_path / "some", ema=0, log_every=3)
    each = [float(row["loss"]) for row in log(tmp_path / "each")]
    some = log(tmp_path / "some")
    assert [row["step"] for row in some] == ["3", "6", "8"]
    assert [float(row["loss"]) for row in some] == pytest.approx(
        [np.mean(each[:3]), np.mean(each[3:6]), np.mean(each[6:])], rel=1e-6
    )
    assert float(some[0]["lr"]) == pytest.approx(1e-2) and float(some[-1]["grad_norm"]) > 0


def test_tensorboard_gets_what_the_log_says(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stopped_after(tmp_path, 5, Toy(), validate_every=4)
    toy_fit(tmp_path, validate_every=4)
    board = EventAccumulator(str(tmp_path / "logs"))
    board.Reload()
    assert {"train/loss", "train/lr", "train/grad_norm", "validation/size"} <= set(board.Tags()["scalars"])
    events = board.Scalars("train/loss")
    assert [event.step for event in events] == list(range(1, 9))
    assert [event.value for event in events] == pytest.approx([float(row["loss"]) for row in log(tmp_path)])
    assert [event.step for event in board.Images("validation/look/day")] == [4, 8]


def test_validation_uses_the_average_and_changes_nothing(tmp_path):
    settings = {"ema": 0.5, "schedule": "constant"}
    toy = toy_fit(tmp_path / "with", Toy(0.2), **settings, validate_every=3)
    without = toy_fit(tmp_path / "without", Toy(0.2), **settings)
    assert equal(weights(toy), weights(without)) and log(tmp_path / "with") == log(tmp_path / "without")
    at_three = toy_fit(tmp_path / "short", Toy(0.2), **settings, steps=3)
    assert equal(toy.seen[0], weights(at_three)) and equal(toy.seen[-1], weights(toy)) and len(toy.seen) == 3
    lines = (tmp_path / "with" / "validation.csv").read_text().splitlines()
    assert [line.rpartition(",")[0] for line in lines] == ["step,name", "3,size", "6,size", "8,size"]
    with Image.open(tmp_path / "with" / "validation" / "step_00000006_look_day.png") as picture:
        assert picture.size == (6, 4) and picture.getpixel((0, 0)) == (6, 6, 6)


def test_a_loss_that_is_not_finite_is_an_error_with_step_samples_and_checkpoint(tmp_path):
    with pytest.raises(DgkitError) as caught:
        toy_fit(tmp_path, Toy(nan_at=19), accumulation=2)
    message = caught.value.message
    assert "nan at step 5 of toy, on samples 18 to 19 (picture_18.png, picture_19.png)" in message
    assert str(tmp_path / "checkpoints" / "step_00000003") in message
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000003"]


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    class Steep(Toy):
        def loss(self, module, batch):
            return super().loss(module, batch) + (0 * module[0].bias.sum()).sqrt()

    with pytest.raises(DgkitError, match=r"gradient norm became nan at step 1 .*samples 0 to 3.*no checkpoint yet"):
        toy_fit(tmp_path, Steep())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_sample_keeps_its_hint(tmp_path, workers):
    torch.set_num_threads(1)
    with pytest.raises(InputError, match=r"^picture 9 is damaged$") as caught:
        toy_fit(tmp_path, Toy(fail_at=9), workers=workers)
    assert caught.value.hint == "remove it"


def test_stages_of_different_precision_follow_each_other(tmp_path):
    whole = toy_fit(tmp_path / "a")
    half = toy_fit(tmp_path / "b", precision="bf16")
    again = toy_fit(tmp_path / "c")
    assert equal(weights(whole), weights(again)) and not equal(weights(whole), weights(half))
    assert half.module(torch.ones(1, 3)).dtype == torch.float32
    assert torch.allclose(half.module(torch.ones(1, 3)), whole.module(torch.ones(1, 3)), atol=0.1)


def test_half_precision_without_a_device_for_it_is_refused(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        toy_fit(tmp_path, precision="fp16")


def test_frozen_modules_are_placed(tmp_path):
    class Placed(Toy):
        where: torch.device | None = None

        def place(self, device: torch.device) -> None:
            self.where = device

    toy = toy_fit(tmp_path, Placed())
    assert toy.where == next(toy.module.parameters()).device


@pytest.mark.parametrize(("module", "package"), [(trainer, "accelerate"), (training_log, "tensorboard")])
def test_the_missing_extra_is_named(monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, package, None)
    spec = importlib.util.spec_from_file_location("fresh", module.__file__)
    with pytest.raises(MissingDependency, match=f"'{package}' is not installed") as caught:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert "[train]" in caught.value.hint


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_group(server, folder: Path, *arguments) -> None:
    """Two processes in the environment that a launcher sets."""
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "ACCELERATE_USE_CPU": "1"}
    ranks = [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    group = [server.Process(target=fits.in_process, args=(folder, rank, *arguments)) for rank in ranks]
    for process in group:
        process.start()
    for process in group:
        process.join(TIMEOUT)
    assert [process.exitcode for process in group] == [0, 0]


def test_two_processes_equal_one(tmp_path, server):
    settings = {"batch": 8, "accumulation": 2, "validate_every": 4, "log_every": 2}
    run_group(server, tmp_path / "two", settings)
    check_two_against_one(tmp_path, settings)


def test_all_processes_stop_at_a_loss_that_is_not_finite(tmp_path, server):
    run_group(server, tmp_path, {}, 18)
    first, second = ((tmp_path / f"error_{rank}.txt").read_text() for rank in "01")
    assert first == second
    assert "step 5 of toy, on samples 18 to 19 " in first and "step_00000003" in first


def check_two_against_one(tmp_path: Path, settings: dict) -> None:
    one = toy_fit(tmp_path / "one", **settings)
    newest = tmp_path / "two" / "checkpoints" / "step_00000008"
    assert close(load_file(newest / "ema.safetensors"), weights(one))
    assert not equal(weights(Toy()), weights(one))
    for a, b in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        assert all(math.isclose(float(a[key]), float(b[key]), rel_tol=1e-4) for key in a)
    # A checkpoint of two processes is resumed in one.
    resumed = toy_fit(tmp_path / "two", **settings | {"steps": 8})
    assert close(weights(resumed), weights(one))


@pytest.mark.slow
def test_accelerate_launch_with_two_processes_equals_one(tmp_path):
    settings = {"batch": 8, "accumulation": 2, "validate_every": 4, "log_every": 2}
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nimport accelerate\nfrom tests.fits import in_process\n"
        f"folder = Path({str(tmp_path)!r})\nin_process(folder / 'two', {{}}, {settings!r})\n"
        "state = accelerate.PartialState()\n"
        "(folder / f'rank_{state.process_index}').write_text(str(state.num_processes))\n"
    )
    # Only with --multi_gpu does accelerate start several processes; without a GPU they run on the CPU.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command = [*launch, "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", str(free_port()), str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    assert [(tmp_path / f"rank_{rank}").read_text() for rank in "01"] == ["2", "2"]
    check_two_against_one(tmp_path, settings)
