"""Schedules and optimizers follow the settings."""

import itertools
import sys

import pytest
import torch
from torch import nn

from dgkit.errors import MissingDependency, UsageError
from dgkit.training.loop.optimisation import FREE_ON_RESUME, Optimisation
from dgkit.training.loop.optimizers import build_optimizer, rate_at, set_rate


def rates(steps: int, **settings) -> list[float]:
    rate = rate_at(Optimisation(steps=steps, **settings))
    return [rate(step) for step in range(steps + 1)]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "wsd"])
def test_every_schedule_warms_up_and_ends_at_its_final_rate(schedule):
    found = rates(100, schedule=schedule, warmup=10, final_lr=0.1, decay=0.3)
    assert found[10] == 1
    assert all(a < b for a, b in itertools.pairwise(found[:11]))
    assert all(a >= b for a, b in itertools.pairwise(found[10:]))
    assert found[100] == pytest.approx(1.0 if schedule == "constant" else 0.1)


def test_the_decays_have_their_shapes():
    assert rates(100, schedule="linear", warmup=0, final_lr=0)[50] == pytest.approx(0.5)
    assert rates(100, schedule="cosine", warmup=0, final_lr=0)[25] == pytest.approx(0.5 + 0.5 * 0.5**0.5)
    wsd = rates(100, schedule="wsd", warmup=0, final_lr=0, decay=0.4)
    assert wsd[60] == 1 > wsd[61]
    assert wsd[80] == pytest.approx(0.5)


def test_the_constant_part_of_wsd_does_not_depend_on_the_steps():
    short, long = (rates(steps, schedule="wsd", warmup=10, decay=0.25) for steps in (100, 400))
    assert short[:76] == long[:76]
    assert set(long[10:301]) == {1.0}
    assert rates(100, schedule="cosine", warmup=10)[:76] != rates(400, schedule="cosine", warmup=10)[:76]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "wsd"])
def test_a_run_shorter_than_its_warm_up_still_has_a_rate(schedule):
    found = rates(2, schedule=schedule, warmup=100, final_lr=0)
    assert all(a < b < 0.03 for a, b in itertools.pairwise(found))


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def test_the_optimizer_uses_every_setting():
    settings = Optimisation(steps=1, lr=0.5, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.125)
    optimizer = build_optimizer(net(), settings)
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.AdamW)
    assert group["lr"] == 0.5 and group["betas"] == (0.8, 0.9) and group["eps"] == 1e-6
    assert group["weight_decay"] == 0.125 and group["fused"] is True


def test_named_parameters_get_their_own_rate():
    module = net()
    optimizer = build_optimizer(module, Optimisation(steps=1, lr=1.0), ("2.", 4.0))
    set_rate(optimizer, 0.5)
    by_rate = {group["lr"]: group["params"] for group in optimizer.param_groups}
    assert {rate: len(params) for rate, params in by_rate.items()} == {0.5: 2, 2.0: 2}
    assert by_rate[2.0][0] is module[2].weight


def test_frozen_parameters_are_left_out():
    module = net()
    module[0].requires_grad_(False)
    (group,) = build_optimizer(module, Optimisation(steps=1)).param_groups
    assert group["params"] == list(module[2].parameters())
    module[2].requires_grad_(False)
    with pytest.raises(UsageError, match="requires gradients"):
        build_optimizer(module, Optimisation(steps=1))


def test_the_eight_bit_optimizer_names_the_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingDependency, match="bitsandbytes") as caught:
        build_optimizer(net(), Optimisation(steps=1, optimizer="adamw8bit"))
    assert "pip install bitsandbytes" in caught.value.hint


def test_settings_that_may_change_exist():
    assert set(Optimisation.model_fields) > FREE_ON_RESUME
