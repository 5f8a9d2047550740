from __future__ import annotations

import pytest
import torch

from truing.math import advantages


@pytest.mark.parametrize("reward", [0.1, 1 / 3, 0.7, 1e-8, 1e8, -2.3])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_peer_14_equal_rewards_give_exactly_zero(reward, size, scale):
    """Their mean may differ from them by a rounding error, which a division by std + eps would blow up."""
    rewards = torch.cat([torch.full((size,), reward), torch.tensor([0.0, 1.0])])
    groups = torch.tensor([0] * size + [1, 1])
    found = advantages.group_advantages(rewards, groups, scale=scale)
    assert (found[:size] == 0).all()
    assert found[-1] > 0 > found[-2]


def test_peer_14_a_group_of_one_gives_zero():
    found = advantages.group_advantages(torch.tensor([5.0, 1.0, 0.0]), torch.tensor([3, 1, 1]))
    assert found[0] == 0


def test_peer_16_unscored_rows_leave_their_group_alone():
    rewards, groups = torch.tensor([1.0, torch.nan, 0.0, torch.nan]), torch.tensor([0, 0, 0, 1])
    without = advantages.group_advantages(rewards[[0, 2]], groups[[0, 2]])
    found = advantages.group_advantages(rewards, groups)
    assert torch.equal(found[[0, 2]], without)
    assert found[[1, 3]].tolist() == [0.0, 0.0]


def test_rows_of_a_group_need_not_be_neighbours():
    rewards, order = torch.rand(12), torch.randperm(12)
    groups = torch.arange(12) // 4
    torch.testing.assert_close(
        advantages.group_advantages(rewards[order], groups[order]),
        advantages.group_advantages(rewards, groups)[order],
    )


def test_peer_10_reward_sits_on_the_last_trained_token():
    mask = torch.tensor([[True, True, False, True, False], [False] * 5, [False, True, False, False, False]])
    scores, kl = torch.tensor([3.0, 5.0, -1.0]), torch.where(mask, 1.0, torch.nan)
    found = advantages.token_rewards(scores, kl, mask, kl_coef=0.0)
    with_kl = advantages.token_rewards(scores, kl, mask, kl_coef=0.5)
    assert advantages.last_trained(mask).tolist() == [3, 0, 1]
    assert found.tolist() == [[0, 0, 0, 3, 0], [0] * 5, [0, -1, 0, 0, 0]]
    assert with_kl.tolist() == [[-0.5, -0.5, 0, 2.5, 0], [0] * 5, [0, -1.5, 0, 0, 0]]


def gae_by_definition(rewards, values, mask, discount, gae_lambda):
    """Sum the series of every token of a row over its trained tokens only."""
    found = torch.zeros_like(rewards)
    for i, row in enumerate(mask):
        at = row.nonzero()[:, 0].tolist()
        after = [*at[1:], None]
        delta = [
            rewards[i, t] + (0 if n is None else discount * values[i, n]) - values[i, t]
            for t, n in zip(at, after, strict=True)
        ]
        for k, t in enumerate(at):
            found[i, t] = sum((discount * gae_lambda) ** j * d for j, d in enumerate(delta[k:]))
    return found


@pytest.mark.parametrize(("discount", "gae_lambda"), [(1.0, 1.0), (0.9, 0.8), (1.0, 0.0), (0.0, 1.0)])
def test_gae_is_its_definition_with_holes(discount, gae_lambda):
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 16, 9, generator=generator, dtype=torch.float64)
    mask = torch.rand(16, 9, generator=generator) < 0.6
    hidden = torch.where(mask, values, torch.nan)
    found, returns = advantages.gae(rewards, hidden, mask, discount=discount, gae_lambda=gae_lambda)
    expected = gae_by_definition(rewards, values, mask, discount, gae_lambda)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(returns, torch.where(mask, expected + values, 0.0))


def test_whitening_one_token_or_none_gives_zero():
    mask = torch.tensor([[True, False]])
    assert advantages.whiten(torch.tensor([[3.0, torch.nan]]), mask).tolist() == [[0.0, 0.0]]
    assert advantages.whiten(torch.ones(1, 2), torch.zeros_like(mask)).tolist() == [[0.0, 0.0]]


def test_overlong_penalty_is_a_ramp_that_ends_at_minus_1():
    lengths = torch.tensor([1, 6, 7, 8, 10, 11, 10**6])
    found = advantages.soft_overlong_penalty(lengths, max_tokens=10, cache=4)
    assert found.tolist() == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0, -1.0]


@pytest.mark.parametrize("reward", [0.1, 1 / 3, 1e8])
def test_peer_14_leave_one_out_of_equal_rewards_is_exactly_zero(reward):
    rewards, groups = torch.tensor([reward] * 3 + [5.0]), torch.tensor([0, 0, 0, 1])
    assert (advantages.leave_one_out(rewards, groups) == 0).all()  # and that of a group of one


def test_leave_one_out_is_its_definition_without_unscored_rows():
    rewards, groups = torch.tensor([1.0, torch.nan, 0.0, 0.5]), torch.zeros(4, dtype=torch.long)
    assert advantages.leave_one_out(rewards, groups).tolist() == pytest.approx([0.75, 0.0, -0.75, 0.0])


def test_standardised_ignores_unscored_rows():
    scored = torch.tensor([True, False, True])
    found = advantages.standardised(torch.tensor([1.0, 99.0, 3.0]), scored, eps=0.0)
    assert found.tolist() == pytest.approx([-(0.5**0.5), 0.0, 0.5**0.5])


def test_high_entropy_keeps_its_share_and_reads_no_masked_token():
    entropy = torch.cat([torch.arange(10.0), torch.tensor([torch.nan, torch.inf])])[None]
    mask = torch.arange(12)[None] < 10
    for share, count in ((1.0, 10), (0.5, 5), (0.2, 2), (0.01, 1)):
        assert advantages.high_entropy(entropy, mask, share=share).sum() == count
    assert not advantages.high_entropy(entropy, torch.zeros_like(mask), share=0.5).any()


def test_returns_to_go_jump_over_masked_tokens():
    rewards = torch.tensor([[1.0, torch.nan, 2.0, 4.0]])
    mask = torch.tensor([[True, False, True, True]])
    assert advantages.returns_to_go(rewards, mask).tolist() == [[7.0, 0.0, 6.0, 4.0]]
    assert advantages.returns_to_go(rewards, mask, discount=0.5).tolist() == [[3.0, 0.0, 4.0, 4.0]]
