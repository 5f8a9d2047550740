"""What the papers prove of the DPO family, on a policy that can be enumerated."""

from __future__ import annotations

import pytest
import torch

from truing import plugins
from truing.algorithms.bco import bco_loss
from truing.algorithms.dpo import dpo_loss
from truing.algorithms.f_dpo import f_prime
from truing.algorithms.robust_dpo import robust_dpo_loss
from truing.types import Batch, Outputs

REFERENCE = torch.tensor([0.1, 0.4, 0.2, 0.05, 0.25]).double().log()
REWARDS = torch.tensor([1.0, -0.5, 0.3, 2.0, 0.0]).double()
CHOSEN, REJECTED = torch.triu_indices(5, 5, offset=1)  # every pair of the five completions once


def every_pair(preference):
    """Return the batch of all pairs of one-token completions, each with its probability of being right."""
    num_pairs = len(CHOSEN)
    completions = torch.cat([CHOSEN, REJECTED])[:, None]
    return Batch(
        prompts=tuple(torch.zeros(1, dtype=torch.long) for _ in range(2 * num_pairs)),
        completions=completions,
        lengths=torch.ones(2 * num_pairs, dtype=torch.long),
        mask=torch.ones_like(completions, dtype=torch.bool),
        groups=torch.arange(num_pairs).repeat(2),
        paired=True,
        labels=preference.repeat(2),
        ref_logprobs=REFERENCE[completions],
    )


def best_policy(name, preference, **options):
    """Return log pi of the softmax policy that minimises the method's expected loss over all pairs."""
    algorithm = plugins.load("algorithms", name).ALGORITHM
    config, batch = algorithm.config(use_labels=True, **options), every_pair(preference)
    logits = REFERENCE.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def objective():
        solver.zero_grad()
        outputs = Outputs(logits.log_softmax(0)[batch.completions])
        loss = sum(t.weight * t.total for t in algorithm.loss(outputs, batch, config))
        loss.backward()
        return loss

    solver.step(objective)
    return logits.detach().log_softmax(0)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_the_optimum_of_dpo_is_the_reference_tilted_by_the_reward(beta):
    """With Bradley-Terry labels, pi* = pi_ref exp(r / beta) / Z (arXiv:2305.18290, eq. 4)."""
    preference = torch.sigmoid(REWARDS[CHOSEN] - REWARDS[REJECTED])
    found = best_policy("dpo", preference, beta=beta)
    torch.testing.assert_close(found, (REFERENCE + REWARDS / beta).log_softmax(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_the_optimum_of_ipo_is_the_reference_tilted_by_the_chance_to_win(tau):
    """Without Bradley-Terry: pi* = pi_ref exp(P(y beats mu) / tau) / Z, mu uniform (arXiv:2310.12036)."""
    preference = torch.tensor([0.9, 0.2, 0.5, 1.0, 0.0, 0.7, 0.6, 0.3, 0.8, 0.1]).double()
    table = torch.full((5, 5), 0.5).double()
    table[CHOSEN, REJECTED], table[REJECTED, CHOSEN] = preference, 1 - preference
    found = best_policy("ipo", preference, tau=tau)
    expected = (REFERENCE + table.mean(1) / tau).log_softmax(0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("divergence", "beta"), [("js", 3.0), ("forward_kl", 3.0), ("alpha", 3.0)])
def test_the_optimum_of_f_dpo_has_the_rewards_as_its_slopes(divergence, beta):
    """Where every pair is fitted, beta (f'(u_i) - f'(u_j)) = r_i - r_j (arXiv:2309.16240)."""
    preference = torch.sigmoid(REWARDS[CHOSEN] - REWARDS[REJECTED])
    logits = REFERENCE.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [logits], max_iter=1000, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def objective():
        solver.zero_grad()
        slopes = f_prime(logits.log_softmax(0) - REFERENCE, divergence=divergence)
        loss = dpo_loss(slopes[CHOSEN], slopes[REJECTED], beta=beta, preference=preference).sum()
        loss.backward()
        return loss

    solver.step(objective)
    slopes = f_prime(logits.detach().log_softmax(0) - REFERENCE, divergence=divergence)
    rewards = beta * slopes
    torch.testing.assert_close(rewards - rewards.mean(), REWARDS - REWARDS.mean(), rtol=1e-4, atol=1e-4)


def test_the_gradient_weighs_a_pair_by_its_error():
    """dL/dd = -beta (p - sigmoid(beta d)): nothing is left to learn where the policy's preference is p."""
    margin = torch.linspace(-30, 30, 13).double().requires_grad_()
    preference = torch.linspace(0, 1, 13).double()
    dpo_loss(margin, torch.zeros_like(margin), beta=0.3, preference=preference).sum().backward()
    torch.testing.assert_close(margin.grad, -0.3 * (preference - torch.sigmoid(0.3 * margin.detach())))


@pytest.mark.parametrize("flip_rate", [0.0, 0.1, 0.45])
def test_robust_dpo_is_unbiased_under_flips(flip_rate):
    """E over flipped labels of the robust loss is the loss of the clean ones (arXiv:2403.00409)."""
    chosen, rejected = torch.randn(2, 20, generator=torch.Generator().manual_seed(0)).double() * 10
    right = robust_dpo_loss(chosen, rejected, beta=0.2, flip_rate=flip_rate)
    flipped = robust_dpo_loss(rejected, chosen, beta=0.2, flip_rate=flip_rate)
    expected = (1 - flip_rate) * right + flip_rate * flipped
    torch.testing.assert_close(expected, dpo_loss(chosen, rejected, beta=0.2))


def test_bco_bounds_dpo_from_above():
    """For every shift; it is tightest near the middle of both rewards (arXiv:2404.04656, theorem 1)."""
    chosen, rejected = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).double() * 3
    dpo = dpo_loss(chosen, rejected, beta=1.0)
    for shift in (-4.0, 0.0, 4.0):
        assert (bco_loss(chosen, rejected, shift=shift) > dpo).all()
    middle = (chosen + rejected) / 2
    at_middle = bco_loss(chosen - middle, rejected - middle, shift=0.0)
    assert (at_middle <= bco_loss(chosen, rejected, shift=1.0)).all()
