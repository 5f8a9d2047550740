from __future__ import annotations

import torch

from truing.math import reduce

MASK = torch.tensor([[True, True, False], [False, False, False], [True, False, True]])


def test_what_stands_on_untrained_tokens_is_never_read():
    values = torch.where(MASK, 2.0, torch.nan).requires_grad_()
    group_tokens = reduce.group_totals(MASK.sum(-1).float(), torch.tensor([0, 0, 1]))
    totals = [
        reduce.token_mean(values, MASK)[0],
        reduce.seq_mean_token_mean(values, MASK)[0],
        reduce.seq_mean_token_sum(values, MASK)[0],
        reduce.seq_mean_token_sum_norm(values, MASK, norm=4.0)[0],
        reduce.prompt_mean_token_mean(values, MASK, group_tokens)[0],
    ]
    assert [t.item() for t in totals] == [8.0, 4.0, 8.0, 2.0, 4.0]
    sum(totals).backward()
    assert (values.grad[~MASK] == 0).all()
    assert (values.grad[MASK] > 0).all()


def test_a_row_without_trained_tokens_adds_nothing_and_is_no_division_by_zero():
    nothing = torch.zeros_like(MASK)
    assert reduce.seq_mean_token_mean(torch.ones(3, 3), nothing)[0] == 0
    assert reduce.prompt_mean_token_mean(torch.ones(3, 3), nothing, torch.zeros(3))[0] == 0


def test_group_totals_take_any_group_numbers():
    groups = torch.tensor([7, -2, 7, 100])
    assert reduce.group_totals(torch.tensor([1.0, 2.0, 3.0, 4.0]), groups).tolist() == [4.0, 2.0, 4.0, 4.0]


def test_prompt_mean_is_the_same_when_a_group_is_torn_apart():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, 0.0, 0.0]])
    group_tokens = reduce.group_totals(mask.sum(-1).float(), torch.tensor([0, 0]))
    whole, unit = reduce.prompt_mean_token_mean(values, mask, group_tokens)
    torn = [
        reduce.prompt_mean_token_mean(values[i : i + 1], mask[i : i + 1], group_tokens[i : i + 1])[0]
        for i in (0, 1)
    ]
    assert unit == "prompt"
    assert whole == sum(torn) == 4.0
