"""The compute of a step is an estimate, but an exact function of weights and tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from truing.train.batches import batch_of_rollouts
from truing.train.flops import (
    drawn_tokens,
    forward_flops,
    packed_tokens,
    sampled_tokens,
    step_flops,
    update_flops,
)
from truing.types import Completion, Prompt, Rollout


class Tied(nn.Module):
    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.embed, self.body, self.head = (
            nn.Embedding(10, 4),
            nn.Linear(4, 4, bias=False),
            nn.Linear(4, 10, bias=False),
        )
        if tied:
            self.head.weight = self.embed.weight


def rollout(group: int, prompt: int, tokens: int) -> Rollout:
    completion = Completion(tuple([1] * tokens), "", tuple([0.0] * tokens), "stop")
    return Rollout(Prompt(str(group), ()), tuple(range(prompt)), completion, group, {}, 1.0)


@pytest.fixture
def rollouts() -> list[Rollout]:
    return [rollout(0, 5, 2), rollout(0, 5, 3), rollout(1, 4, 1), rollout(1, 4, 6)]


def test_only_weights_that_are_multiplied_count() -> None:
    assert forward_flops(Tied(tied=False)) == 2 * (16 + 40)
    assert forward_flops(Tied(tied=True)) == 2 * (16 + 40)  # the tied matrix is the head


def test_a_frozen_weight_costs_no_gradient_of_its_own() -> None:
    model = Tied(tied=False)
    assert update_flops(model) == 6 * 56
    model.body.weight.requires_grad_(False)
    assert update_flops(model) == 6 * 40 + 4 * 16


def test_a_shared_prompt_is_read_once(rollouts: list[Rollout]) -> None:
    assert packed_tokens(batch_of_rollouts(rollouts)) == 5 + 4 + 12
    assert sampled_tokens(rollouts) == 5 + 4 + 12 and drawn_tokens(rollouts) == 12


def test_a_step_is_the_sum_of_its_passes(rollouts: list[Rollout]) -> None:
    policy = Tied(tied=False)
    batch = batch_of_rollouts(rollouts[:2])  # the second group is not trained, and was drawn
    packed, sampled, n = 10, 21, 56
    assert step_flops({"policy": policy}, batch) == packed * 6 * n
    assert step_flops({"policy": policy}, batch, num_epochs=3) == 3 * packed * 6 * n
    assert step_flops({"policy": policy}, batch, rollouts) == packed * 6 * n + sampled * 2 * n
    scored = step_flops({"policy": policy}, batch, rollouts, reward_model=True)
    assert scored == packed * 6 * n + sampled * 4 * n
    zeros = torch.zeros(batch.completions.shape)
    annotated = replace(batch, old_logprobs=zeros, ref_logprobs=zeros, old_values=zeros)
    both = {"policy": policy, "critic": Tied(tied=True)}
    assert step_flops(both, annotated) == packed * (2 * n * 3 + 2 * 6 * n)
    assert step_flops(both, annotated, live_reference=False) == packed * (2 * n * 2 + 2 * 6 * n)
