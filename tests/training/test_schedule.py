# pytest tests/training/test_schedule.py
"""The learning rate of each step, and which weights decay."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from nanos2t.training.config import TrainConfig
from nanos2t.training.schedule import decay_groups, learning_rate


def test_learning_rate_is_a_trapezoid():
    config = TrainConfig(
        steps=100, learning_rate=2.0, warmup_steps=10, decay_steps=20, schedule="constant"
    )
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[50] == rates[80] == 2.0
    assert rates[90] == pytest.approx(1.0) and rates[99] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10]) and rates[80:] == sorted(rates[80:], reverse=True)


def test_learning_rate_is_linear_or_a_cosine_as_in_transformers():
    schedules = pytest.importorskip("transformers.optimization")
    for name, make in (
        ("linear", schedules.get_linear_schedule_with_warmup),
        ("cosine", schedules.get_cosine_schedule_with_warmup),
    ):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
        theirs = make(optimizer, 10, 100)
        config = TrainConfig(steps=100, learning_rate=2.0, warmup_steps=10, schedule=name)
        for step in range(100):
            if step >= 10:  # in the warm-up, transformers is a step behind, and so begins with 0
                assert learning_rate(step, config) == pytest.approx(optimizer.param_groups[0]["lr"])
            optimizer.step()
            theirs.step()
        assert [learning_rate(step, config) for step in (0, 4)] == pytest.approx([0.2, 1.0])
        assert learning_rate(0, replace(config, warmup_steps=0)) == 2.0


def test_only_matrices_decay():
    module = nn.ModuleDict(
        {"linear": nn.Linear(3, 4), "norm": nn.LayerNorm(4), "frozen": nn.Linear(2, 2)}
    )
    module["frozen"].requires_grad_(False)
    module.gain = nn.Parameter(torch.ones(1, 1, 5))
    decay, rest = decay_groups(module, 0.1)
    assert decay["weight_decay"] == 0.1 and rest["weight_decay"] == 0.0
    assert [tuple(parameter.shape) for parameter in decay["params"]] == [(4, 3)]
    assert sorted(tuple(parameter.shape) for parameter in rest["params"]) == [
        (1, 1, 5),
        (4,),
        (4,),
        (4,),
    ]
