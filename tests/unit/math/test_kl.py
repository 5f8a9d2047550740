from __future__ import annotations

import math

import pytest
import torch

from truing.math import kl


@pytest.mark.parametrize("gap", [50.0, -50.0, 1000.0, -1000.0])
@pytest.mark.parametrize("estimator", [kl.k1, kl.k2, kl.k3])
def test_peer_15_estimators_are_finite_and_keep_their_direction(gap, estimator):
    x = torch.tensor([gap], requires_grad=True)
    value = estimator(x).sum()
    value.backward()
    assert value.isfinite() and x.grad.isfinite().all()
    if estimator is not kl.k1:
        assert value > 0
        assert x.grad.sign() == math.copysign(1, gap)  # descent moves the log-ratio back towards 0


def test_k3_is_the_textbook_formula_inside_the_bound():
    x = torch.linspace(-20, 20, 401, dtype=torch.float64)
    torch.testing.assert_close(kl.k3(x), torch.exp(-x) - 1 + x)


def test_k3_and_its_slope_join_smoothly_at_the_bound():
    x = torch.tensor([-20.0 - 1e-6, -20.0 + 1e-6], dtype=torch.float64, requires_grad=True)
    value = kl.k3(x)
    value.sum().backward()
    assert abs(value[0] / value[1] - 1) < 1e-5
    assert abs(x.grad[0] / x.grad[1] - 1) < 1e-5


def test_k3_of_a_small_log_ratio_is_exact_in_float32():
    x = torch.tensor([1e-3, -1e-3, 0.0])
    assert kl.k3(x).tolist() == pytest.approx([5e-7, 5e-7, 0.0], rel=2e-2)


def test_adaptive_coefficient_moves_towards_the_target_within_its_bounds():
    def step(seen):
        return kl.adaptive_kl_coef(1.0, seen, target=6.0, num_sequences=64.0, horizon=640.0)

    assert step(6.0) == 1.0
    assert step(6.6) == pytest.approx(1.01)
    assert step(1e9) == pytest.approx(1.02)
    assert step(-5.0) == pytest.approx(0.98)
