from __future__ import annotations

import pytest
import torch

from truing.math import ratios


def test_masked_tokens_enter_no_exponential():
    logprobs = torch.tensor([[0.0, torch.nan, torch.inf]], requires_grad=True)
    mask = torch.tensor([[True, False, False]])
    ratio = ratios.token_ratio(ratios.log_ratio(logprobs, torch.full((1, 3), -1.0), mask))
    ratio.sum().backward()
    assert ratio[0, 1:].tolist() == [1.0, 1.0]
    assert logprobs.grad[0].tolist() == [pytest.approx(2.7182818), 0.0, 0.0]


@pytest.mark.parametrize("gap", [50.0, 1000.0])
def test_peer_15_ratio_stays_finite_with_a_gradient(gap):
    x = torch.tensor([gap, -gap], requires_grad=True)
    ratio = ratios.token_ratio(x)
    ratio.sum().backward()
    assert ratio.isfinite().all() and (ratio >= 0).all()
    assert x.grad[0] > 0 and x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        (1.3, 1.0, 0.0),  # grown enough: no more
        (1.3, -1.0, 1.0),  # grew although worse: still pushed down
        (0.7, 1.0, -1.0),
        (0.7, -1.0, 0.0),
        (1.1, 1.0, -1.0),
        (0.9, -1.0, 1.0),
    ],
)
def test_both_sides_of_the_clip(ratio, advantage, slope):
    x = torch.tensor([ratio], requires_grad=True)
    ratios.clipped_surrogate(x, torch.tensor([advantage]), clip_low=0.2, clip_high=0.2).sum().backward()
    assert x.grad.item() == slope
    low, high = ratios.clipped_tokens(x, torch.tensor([advantage]), clip_low=0.2, clip_high=0.2)
    assert (low | high).item() == (slope == 0)


def test_the_two_sides_have_their_own_width():
    x = torch.tensor([1.25, 1.3, 0.75, 0.85], requires_grad=True)
    sign = torch.tensor([1.0, 1.0, -1.0, -1.0])
    ratios.clipped_surrogate(x, sign, clip_low=0.2, clip_high=0.28).sum().backward()
    assert x.grad.tolist() == [-1.0, 0.0, 0.0, 1.0]


def test_sequence_ratio_is_the_geometric_mean_over_trained_tokens():
    x = torch.tensor([[0.2, 0.4, 9.0], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    ratio = ratios.sequence_ratio(x, mask)
    assert ratio.shape == x.shape
    assert ratio[:, 0].tolist() == [pytest.approx(1.349859), 1.0]


def test_truncated_weight_is_capped_detached_and_1_where_nothing_is_known():
    gap = torch.tensor([0.0, 5.0, -1.0, torch.nan, 1e4], requires_grad=True)
    weight = ratios.truncated_weight(gap, cap=2.0)
    assert weight.tolist() == [1.0, 2.0, pytest.approx(0.36787944), 1.0, 2.0]
    assert not weight.requires_grad


def test_product_ratio_is_the_ratio_of_the_whole_completion():
    x = torch.tensor([[0.2, 0.4, 9.0], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert ratios.product_ratio(x, mask)[:, 0].tolist() == [pytest.approx(1.8221188), 1.0]


@pytest.mark.parametrize("kind", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_correction_weights_never_read_masked_tokens_and_count_unknown_as_1(kind):
    gap = torch.tensor([[0.1, torch.nan, torch.inf], [torch.nan, 0.2, 0.2]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    weight = ratios.correction_weight(gap, mask, kind=kind, cap=2.0)
    assert weight.isfinite().all() and not weight.requires_grad
    expected = 1.0 if kind.startswith("token") else 1.1051709
    assert weight[0, 1].item() == pytest.approx(expected)


def test_near_policy_keeps_good_rows_and_close_ones():
    gap = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, torch.nan]])
    advantages = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0]])
    kept = ratios.near_policy(gap, advantages, torch.ones(3, 2, dtype=torch.bool), max_gap=0.5)
    assert kept.tolist() == [[True, True], [False, False], [True, True]]
