"""The loop resumes bit for bit, averages, and stops on a loss that is not finite."""

import itertools

import pytest
import torch
from torch import nn

from dgkit.errors import DgkitError
from dgkit.training.loop import adamw, learning_rate, train
from dgkit.training.recipe import Optimisation

RECIPE = Optimisation(steps=8, batch=4, lr=1e-2, warmup=2, checkpoint_every=3)


def _module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def _loss_at(module: nn.Module, fail_at: int | None = None):
    def loss_at(step: int) -> torch.Tensor:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        loss = (module(x) - x.sum(1, keepdim=True)).square().mean()
        return loss * float("nan") if step == fail_at else loss

    return loss_at


class Stop(Exception):
    """Stands for a kill between two steps."""


def _run(folder, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    def progress(name: str, done: int, total: int, loss: float) -> None:
        if done == stop_at:
            raise Stop

    module = _module()
    train("stage", module, adamw(module, RECIPE), _loss_at(module), RECIPE, folder, progress)
    return module.state_dict()


def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    expected = _run(tmp_path / "whole")
    with pytest.raises(Stop):
        _run(tmp_path / "cut", stop_at=5)  # two steps after the checkpoint of step 3
    resumed = _run(tmp_path / "cut")
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_training_lowers_the_loss_and_leaves_the_average(tmp_path):
    module = _module()
    before = _loss_at(module)(0).item()
    recipe = RECIPE.model_copy(update={"steps": 60, "ema": 0.5, "checkpoint_every": 60})
    train("stage", module, adamw(module, recipe), _loss_at(module), recipe, tmp_path)
    assert _loss_at(module)(0).item() < 0.5 * before
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(saved["average"][k], v) for k, v in module.state_dict().items())
    assert any(not torch.equal(saved["module"][k], v) for k, v in module.state_dict().items())


def test_a_loss_that_is_not_finite_names_the_step_and_the_checkpoint(tmp_path):
    module = _module()
    with pytest.raises(DgkitError, match=r"nan at step 4; .*checkpoint\.pt"):
        train("stage", module, adamw(module, RECIPE), _loss_at(module, fail_at=4), RECIPE, tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 3


def test_the_learning_rate_warms_up_and_decays_to_its_share():
    rates = [learning_rate(RECIPE, step) for step in range(9)]
    assert rates[:2] == [0.005, 0.01]
    assert rates[2] == pytest.approx(0.01)
    assert rates[8] == pytest.approx(0.01 * RECIPE.final_lr)
    assert all(a >= b for a, b in itertools.pairwise(rates[2:]))


def test_zero_convolutions_get_their_own_learning_rate(tmp_path):
    module = _module()
    optimizer = adamw(module, RECIPE, faster=("2.", 4.0))
    scales = {group["scale"]: len(group["params"]) for group in optimizer.param_groups}
    assert scales == {1.0: 2, 4.0: 2}
