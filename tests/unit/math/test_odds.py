from __future__ import annotations

import pytest
import torch

from truing.math.odds import log1mexp, log_odds


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log1mexp_is_exact_at_both_ends_and_has_a_finite_gradient(dtype):
    x = torch.tensor([-1e-6, -0.1, -0.7, -30.0, -500.0], dtype=dtype, requires_grad=True)
    y = log1mexp(x)
    y.sum().backward()
    exact = torch.log(-torch.expm1(x.detach().double()))
    torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-12)
    slope = -1 / torch.expm1(-x.detach().double())  # d log(1 - e^x) = -e^x / (1 - e^x)
    torch.testing.assert_close(x.grad.double(), slope, rtol=1e-5, atol=1e-12)


def test_log_odds_of_probabilities():
    p = torch.tensor([0.01, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(log_odds(p.log()), (p / (1 - p)).log())


@pytest.mark.parametrize("logprob", [0.0, -1e-9, 5.0])
def test_log_odds_of_a_certain_completion_are_finite_and_send_no_gradient(logprob):
    x = torch.tensor([logprob], requires_grad=True)
    y = log_odds(x)
    y.sum().backward()
    assert 13 < y.item() < 14 and x.grad.item() == 0
