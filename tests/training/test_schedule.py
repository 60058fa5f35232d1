from __future__ import annotations

import pytest
import torch

from metaseg.training.optimization import learning_rate


def test_poly_equals_torch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=50, power=0.9)
    for step in range(50):
        assert learning_rate(step, 50, 0.1, "poly") == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_cosine_equals_torch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    for step in range(30):
        assert learning_rate(step, 30, 0.1, "cosine") == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_warm_up_rises_to_the_first_rate_and_takes_at_most_a_tenth():
    rates = [learning_rate(step, 100, 1.0, "constant", warmup=50) for step in range(12)]
    assert rates[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert rates[10:] == [1.0, 1.0]


@pytest.mark.parametrize("schedule", ["poly", "cosine", "constant"])
def test_rates_stay_positive_and_never_rise(schedule):
    rates = [learning_rate(step, 40, 0.01, schedule) for step in range(40)]
    assert all(rate > 0 for rate in rates)
    assert rates == sorted(rates, reverse=True)
