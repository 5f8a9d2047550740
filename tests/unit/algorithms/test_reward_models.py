"""What is exact about reward models: their limits, their minima, and gradients of what is no sum over rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from truing import plugins
from truing.algorithms.all_pairs_ranking import all_pairs_loss
from truing.algorithms.davidson import davidson_logprobs
from truing.algorithms.mars import margin_shares
from truing.algorithms.odin import length_penalty
from truing.algorithms.plackett_luce import MAX_TIED, plackett_luce_loss
from truing.algorithms.rao_kupper import rao_kupper_logprobs
from truing.algorithms.reward_model import bradley_terry_loss
from truing.algorithms.thurstone import thurstone_loss
from truing.types import Batch, Outputs

A = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
B = torch.tensor([0.1, 0.5, -2.0], dtype=torch.float64)


def batch(rows: int, **fields) -> Batch:
    return Batch(
        prompts=tuple(torch.zeros(1, dtype=torch.long) for _ in range(rows)),
        completions=torch.zeros(rows, 6, dtype=torch.long),
        lengths=fields.pop("lengths", torch.arange(rows) % 6 + 1),
        mask=torch.ones(rows, 6, dtype=torch.bool),
        groups=fields.pop("groups", torch.arange(rows)),
        **fields,
    )


def test_rankings_of_two_are_bradley_terry():
    both = torch.stack([A, B], -1)
    for loss in (plackett_luce_loss, all_pairs_loss):
        found = torch.stack([loss(scores, torch.tensor([1, 2])) for scores in both])
        torch.testing.assert_close(found, bradley_terry_loss(A, B))


def test_models_of_ties_become_bradley_terry_where_ties_vanish():
    tiny = torch.tensor(1e-12, dtype=torch.float64)
    for found in (rao_kupper_logprobs(A, B, tiny), davidson_logprobs(A, B, tiny.log())):
        torch.testing.assert_close(found[:, 0], F.logsigmoid(A - B))
        torch.testing.assert_close(found[:, 1], F.logsigmoid(B - A))
        assert (found[:, 2] < -20).all()


def test_probabilities_of_win_loss_and_tie_sum_to_1():
    for found in (
        rao_kupper_logprobs(A, B, torch.tensor(0.7, dtype=torch.float64)),
        davidson_logprobs(A, B, torch.tensor(-0.3, dtype=torch.float64)),
    ):
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(3, dtype=torch.float64))


def test_rao_kupper_s_band_is_where_half_the_judgements_are_lost():
    """P(a) = 1/2 at a difference of log theta: half the width of the band."""
    log_theta = torch.tensor(0.8, dtype=torch.float64)
    found = rao_kupper_logprobs(A, A - log_theta, log_theta)[:, 0]
    torch.testing.assert_close(found.exp(), torch.full((3,), 0.5, dtype=torch.float64))


def test_probit_gradient_grows_with_the_violation_and_the_logit_s_does_not():
    wrong = torch.tensor([-2.0, -8.0, -30.0], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros_like(wrong)
    probit = torch.autograd.grad(thurstone_loss(wrong, zero, scale=1.0).sum(), wrong)[0]
    logit = torch.autograd.grad(bradley_terry_loss(wrong, zero).sum(), wrong)[0]
    assert (probit.abs() > wrong.abs()).all()
    assert (logit.abs() <= 1).all()


@pytest.mark.parametrize("label", [0.5, 0.8, 1.0])
def test_a_soft_label_asks_for_its_logit(label):
    config = plugins.load("algorithms", "reward_model").ALGORITHM.config(use_labels=True)
    target = torch.tensor(label, dtype=torch.float64).clamp(max=1 - 1e-9).logit()
    scores = torch.stack([target, torch.zeros_like(target)]).requires_grad_()
    labels = torch.full((2,), label, dtype=torch.float64)
    terms = plugins.load("algorithms", "reward_model").ALGORITHM.loss(
        Outputs(scores=scores), batch(2, paired=True, groups=torch.zeros(2).long(), labels=labels), config
    )
    terms[0].total.backward()
    torch.testing.assert_close(scores.grad, torch.zeros(2, dtype=torch.float64), atol=1e-8, rtol=0)


def test_too_long_a_tie_is_an_error_unless_it_is_last():
    scores = torch.zeros(MAX_TIED + 2)
    with pytest.raises(ValueError, match=r"9 completions of a ranking share a place.*all_pairs_ranking"):
        plackett_luce_loss(scores, torch.tensor([1] * (MAX_TIED + 1) + [10]))
    assert plackett_luce_loss(scores, torch.tensor([1] + [2] * (MAX_TIED + 1))).item() == pytest.approx(
        torch.tensor(10.0).log().item()
    )


def test_all_ties_give_no_loss():
    scores = torch.randn(4, requires_grad=True)
    for loss in (plackett_luce_loss, all_pairs_loss):
        found = loss(scores, torch.ones(4, dtype=torch.long))
        assert found.item() == 0
        assert (torch.autograd.grad(found, scores)[0] == 0).all()


def test_mars_weights_are_1_on_average_and_signed_keeps_what_is_ranked_wrongly():
    module = plugins.load("algorithms", "mars")
    margins = torch.tensor([0.1, -3.0, 3.0])
    old = torch.cat([margins, torch.zeros(3)])
    made = module.ALGORITHM.credit(batch(6, paired=True, old_scores=old), module.ALGORITHM.config(budget=4.0))
    assert made.weights[:3].mean().item() == pytest.approx(1)
    assert (made.weights[:3] == made.weights[3:]).all()
    plain, signed = (margin_shares(margins, tau=1.0, signed=s) for s in (False, True))
    assert plain[1] == plain[2]
    assert signed[1] == signed.max() > signed[2]


def test_odin_s_gradient_is_that_of_the_whole_batch_s_correlations():
    torch.manual_seed(0)
    algorithm = plugins.load("algorithms", "odin").ALGORITHM
    config = algorithm.config(length_coef=0.7, overlap_coef=0.0)
    quality, length = (torch.randn(8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    made = batch(8, paired=True, old_scores=quality.detach(), old_length_scores=length.detach())
    made = algorithm.credit(made, config)
    terms = algorithm.loss(Outputs(scores=quality, length_scores=length), made, config)
    count = made.count()
    loss = torch.stack([t.weight * t.total / count[t.unit] for t in terms]).sum()
    both = quality + length
    expected = bradley_terry_loss(*both.chunk(2)).mean()
    expected = expected + 0.7 * length_penalty(quality, length, made.lengths.double())
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(
        torch.autograd.grad(loss, (quality, length), retain_graph=True),
        torch.autograd.grad(expected, (quality, length)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_odin_begins_with_heads_that_say_nothing():
    algorithm = plugins.load("algorithms", "odin").ALGORITHM
    zero = torch.zeros(4)
    made = algorithm.credit(
        batch(4, paired=True, old_scores=zero, old_length_scores=zero), algorithm.config()
    )
    assert (made.score_slopes == 0).all() and (made.length_score_slopes == 0).all()


def test_an_outcome_at_every_token_ignores_what_is_not_trained():
    algorithm = plugins.load("algorithms", "outcome_reward").ALGORITHM
    made = batch(2, labels=torch.tensor([1.0, 0.0]))
    made = replace(made, mask=torch.arange(6) < torch.tensor([[2], [6]]))
    scores = torch.where(made.mask, 0.3, torch.nan).requires_grad_()
    terms = algorithm.loss(Outputs(token_scores=scores), made, algorithm.config(every_token=True))
    terms[0].total.backward()
    assert terms[0].unit == "token"
    assert (scores.grad[~made.mask] == 0).all() and scores.grad.isfinite().all()
