"""What the papers say exactly of CPO, SimPO, AlphaPO and ORPO."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from truing import plugins
from truing.types import Batch, Outputs

LENGTHS = torch.tensor([4, 2, 3, 1])  # two chosen rows, then their rejected ones
MASK = torch.arange(4) < LENGTHS[:, None]


def batch() -> Batch:
    return Batch(
        prompts=tuple(torch.tensor([1, 2]) for _ in range(4)),
        completions=torch.zeros(4, 4, dtype=torch.long),
        lengths=LENGTHS,
        mask=MASK,
        groups=torch.arange(2).repeat(2),
        paired=True,
    )


def logprobs(seed: int = 0) -> torch.Tensor:
    drawn = torch.rand(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (-3 * drawn - 0.05).requires_grad_()


def driven(name: str, tokens: torch.Tensor, on: Batch | None = None, **options):
    """Return the loss, and its gradient at each row's first token."""
    algorithm, on = plugins.load("algorithms", name).ALGORITHM, on or batch()
    terms = algorithm.loss(Outputs(tokens), on, algorithm.config(**options))
    count = on.count()
    loss = sum(t.weight * t.total / count[t.unit] for t in terms)
    (grad,) = torch.autograd.grad(loss, tokens)
    return loss.detach(), grad


def test_cpo_is_dpo_with_a_uniform_reference():
    """Where the reference gives both completions of a pair the same log-prob."""
    tokens = logprobs()
    uniform = torch.where(MASK, -5.0 / LENGTHS[:, None], 0.0).double()
    cpo, gradient = driven("cpo", tokens, nll_weight=0.0)
    dpo, expected = driven("dpo", tokens, replace(batch(), ref_logprobs=uniform))
    torch.testing.assert_close(cpo, dpo)
    torch.testing.assert_close(gradient, expected)


def test_simpo_s_gradient_is_normalised_by_length():
    """A pair weighs beta sigmoid(gamma - beta (m_w - m_l)), divided by |y|."""
    tokens = logprobs()
    means = (tokens.detach() * MASK).sum(-1) / LENGTHS
    weight = 2.0 * torch.sigmoid(1.0 - 2.0 * (means[:2] - means[2:]))
    expected = torch.cat([-weight, weight]) / LENGTHS / 2
    torch.testing.assert_close(driven("simpo", tokens)[1][:, 0], expected)


@pytest.mark.parametrize("alpha", [0.01, 0.25, 2.0])
def test_alphapo_s_reward_has_the_slope_beta_p_to_minus_alpha(alpha):
    reward = plugins.load("algorithms", "alphapo").power_reward
    mean = torch.tensor([-0.1, -1.0, -4.0], dtype=torch.float64, requires_grad=True)
    reward(mean, alpha=alpha, beta=3.0).sum().backward()
    torch.testing.assert_close(mean.grad, 3.0 * torch.exp(-alpha * mean.detach()))


def test_alphapo_s_reward_goes_on_along_its_tangent():
    reward = plugins.load("algorithms", "alphapo").power_reward
    mean = torch.tensor([-79.99, -80.01, -1e6], requires_grad=True)  # alpha m = 20 at -80
    found = reward(mean, alpha=0.25, beta=1.0)
    found.sum().backward()
    assert found.isfinite().all() and mean.grad.isfinite().all()
    assert found[0] > found[1] > found[2]
    assert mean.grad[1] == mean.grad[2] == pytest.approx(torch.tensor(20.0).exp().item(), rel=1e-6)


def test_orpo_s_gradient_is_the_paper_s():
    """delta = sigmoid(-log odds ratio) weighs dm / (1 - p) of each side, p = exp(m)."""
    tokens = logprobs()
    with_pairs, without = driven("orpo", tokens, lambda_or=1.0)[1], driven("orpo", tokens, lambda_or=1e-12)[1]
    p = ((tokens.detach() * MASK).sum(-1) / LENGTHS).exp()
    log_odds = (p / (1 - p)).log()
    delta = torch.sigmoid(log_odds[2:] - log_odds[:2])
    expected = torch.cat([-delta, delta]) / (1 - p) / LENGTHS / 2
    torch.testing.assert_close((with_pairs - without)[:, 0], expected, rtol=1e-6, atol=1e-10)
