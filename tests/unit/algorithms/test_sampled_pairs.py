"""Which completions meet, what a tie and a missing score do, and what the gradients are the gradients of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from truing import plugins
from truing.algorithms._sampled_pairs import best_and_worst, neighbours, own_and_opponent, scored_groups
from truing.algorithms.nash_md import nash_md_loss
from truing.algorithms.rebel import rebel_loss
from truing.algorithms.rejection_sampling import best_of
from truing.types import Batch, Outputs

NAN = float("nan")


def batch_of(rewards, group_size, **fields):
    num = len(rewards)
    return Batch(
        prompts=tuple(torch.zeros(1, dtype=torch.long) for _ in range(num)),
        completions=torch.zeros(num, 2, dtype=torch.long),
        lengths=torch.full((num,), 2),
        mask=torch.ones(num, 2, dtype=torch.bool),
        groups=torch.arange(num) // group_size,
        uids=tuple(map(str, range(num))),
        rewards=torch.tensor(rewards),
        truncated=torch.zeros(num, dtype=torch.bool),
        old_logprobs=-torch.ones(num, 2),
        ref_logprobs=-torch.ones(num, 2),
        **fields,
    )


def credited(name, rewards, group_size, options=None, **fields):
    algorithm = plugins.load("algorithms", name).ALGORITHM
    config = algorithm.config(**(options or {}))
    return algorithm.credit(batch_of(rewards, group_size, **fields), config)


PAIRED = ["online_dpo", "iterative_dpo", "rebel"]


@pytest.mark.parametrize("name", ["online_dpo", "iterative_dpo"])
def test_the_best_meets_the_worst(name):
    batch = credited(name, [1.0, 5.0, 2.0, 3.0, 0.0, 4.0], 3)
    assert batch.uids == ("1", "5", "0", "4")
    assert batch.paired
    assert batch.groups.tolist() == [0, 1, 0, 1]
    assert batch.margins.tolist() == [4.0, 4.0, 4.0, 4.0]
    assert batch.kept_share.tolist() == [1.0] * 4


@pytest.mark.parametrize("name", [*PAIRED, "sppo", "rejection_sampling"])
def test_peer_26_an_unscored_completion_never_enters(name):
    batch = credited(name, [NAN, 1.0, 0.0, NAN, NAN, 2.0], 3)
    assert set(batch.uids) <= {"1", "2", "5"}
    assert batch.rewards.isfinite().all()
    lonely = {"5"} if name == "rejection_sampling" else set()  # one completion of a group has no partner
    assert set(batch.uids) - {"1", "2"} == lonely


@pytest.mark.parametrize("name", ["online_dpo", "iterative_dpo", "sppo"])
def test_peer_26_ties_give_no_pair_and_are_counted(name):
    batch = credited(name, [1.0, 1.0, 0.0, 3.0], 2)
    assert set(batch.uids) == {"2", "3"}
    assert batch.kept_share.tolist() == [0.5, 0.5]
    nothing = credited(name, [1.0, 1.0, 3.0, 3.0], 2)
    assert not nothing.mask.any()
    assert (nothing.kept_share == 0).all()
    assert nothing.count()["token"] == 0


def test_a_tie_may_be_wider_than_equality():
    rewards, groups = torch.tensor([1.0, 1.05, 0.0, 3.0]), [[0, 1], [2, 3]]
    assert best_and_worst(rewards, groups, tie_margin=0.1) == ([3], [2])
    assert best_and_worst(rewards, groups, tie_margin=0.1, first_wins=True) == ([0, 3], [1, 2])


def test_rebel_keeps_ties_and_every_two_completions():
    batch = credited("rebel", [1.0, 1.0, 0.0, 3.0, 7.0], 5)
    assert batch.uids == ("0", "3", "1", "2")
    assert batch.margins.tolist() == [0.0, 3.0, 0.0, 3.0]
    assert neighbours(torch.tensor([1.0, 1.0]), [[0, 1]]) == ([0], [1])


def test_the_policy_s_completion_meets_the_opponent_s():
    theirs = torch.tensor([False, False, True, True] * 2)
    rewards = torch.tensor([1.0, 0.0, 2.0, 0.0, 3.0, 1.0, 2.0, 0.0])
    assert own_and_opponent(rewards, [[0, 1, 2, 3], [4, 5, 6, 7]], theirs) == ([2, 4, 5], [0, 6, 7])
    assert own_and_opponent(rewards, [[0, 1, 3]], theirs) == ([0], [3]), "one rival is missing"


def test_xpo_marks_the_side_of_the_reference_and_nash_md_trains_its_own():
    theirs = torch.tensor([False, True] * 2)
    batch = credited("xpo", [0.0, 1.0, 2.0, 1.0], 2, by_opponent=theirs)
    assert batch.uids == ("1", "2", "0", "3")
    assert batch.by_opponent.tolist() == [True, False, False, True]
    batch = credited("nash_md", [0.0, 1.0, 2.0, 1.0], 2, {"preference": "wins"}, by_opponent=theirs)
    assert batch.uids == ("0", "2")
    assert batch.labels.tolist() == [0.0, 1.0]
    alone = credited("nash_md", [0.0, NAN, 2.0, 1.0], 2, by_opponent=theirs)
    assert alone.uids == ("2",), "without a rival there is no probability"
    assert alone.kept_share.tolist() == [0.5]


def test_the_mismatch_is_that_of_the_policy_s_own_rows():
    """The opponent's rows differ from the policy by their nature."""
    theirs = torch.tensor([False, True] * 2)
    sampled = torch.where(theirs[:, None], -9.0, -1.5).expand(4, 2)
    batch = credited("xpo", [0.0, 1.0, 2.0, 1.0], 2, by_opponent=theirs, sampler_logprobs=sampled)
    algorithm = plugins.load("algorithms", "xpo").ALGORITHM
    terms = algorithm.loss(Outputs(-torch.ones(4, 2)), batch, algorithm.config())
    count = batch.count()
    found = {t.name: float(t.total / count[t.unit]) for t in terms}
    assert found["mismatch/logprob_gap_mean"] == pytest.approx(0.5)
    assert found["rewards/opponent_beaten_share"] == 0.5


def test_the_best_of_a_group():
    values = [1.0, 3.0, 3.0, 2.0]
    assert best_of(values, [0, 1, 2, 3], keep=1, min_reward=None) == [1]
    assert best_of(values, [0, 1, 2, 3], keep=3, min_reward=2.5) == [1, 2]
    batch = credited("rejection_sampling", [0.0, 0.0, 1.0, 0.0], 2, {"min_reward": 0.5})
    assert batch.uids == ("2",)
    assert batch.kept_share.tolist() == [0.5]


def test_a_batch_larger_than_its_scores_leaves_no_empty_groups():
    assert scored_groups(batch_of([NAN, NAN, 1.0, 2.0], 2)) == [[], [2, 3]]


def test_rebel_is_solved_by_the_exponential_tilt():
    """pi = pi_old exp(eta r) / Z has d = eta (r_1 - r_2), so every pair's loss is 0."""
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(5, generator=generator).double().log_softmax(0)
    rewards, eta = torch.randn(5, generator=generator).double(), 0.7
    new = (old + eta * rewards).log_softmax(0)
    one, two = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    ratio, margin = new - old, rewards[one] - rewards[two]
    assert rebel_loss(ratio[one], ratio[two], margin, eta=eta).abs().max() < 1e-24
    assert rebel_loss(ratio[two], ratio[one], margin, eta=eta).max() > 0.1


def test_nash_md_follows_the_gradient_of_its_game():
    """Summed over all completions of one token, it is the gradient of -P(pi beats mu) + beta KL(pi, ref)."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, generator=generator).double().requires_grad_()
    ref = torch.randn(6, generator=generator).double().log_softmax(0)
    rewards = torch.randn(6, generator=generator).double()
    beta, share = 0.3, 0.5
    policy = logits.log_softmax(0)
    mixture = ((1 - share) * policy.detach() + share * ref).softmax(0)
    wins = (rewards[:, None] - rewards[None]).sigmoid() @ mixture

    value = -(policy.exp() * wins).sum() + beta * (policy.exp() * (policy - ref)).sum()
    (expected,) = torch.autograd.grad(value, logits)

    policy = logits.log_softmax(0)
    everything = torch.ones(6, 1, dtype=torch.bool)
    losses = nash_md_loss(policy[:, None], ref[:, None], everything, wins, beta=beta)
    (found,) = torch.autograd.grad((policy.detach().exp() * losses[:, 0]).sum(), logits)
    torch.testing.assert_close(found, expected)


def test_online_dpo_against_the_reference_and_iterative_dpo_against_the_round():
    """Rounds forget the start: with the reference far away, only online DPO's loss knows of it."""
    batch = credited("online_dpo", [1.0, 0.0], 2)
    moved = replace(batch, ref_logprobs=batch.ref_logprobs - torch.tensor([[3.0], [0.0]]))
    outputs = Outputs(-torch.ones(2, 2))
    for name, changes in (("online_dpo", True), ("iterative_dpo", False)):
        algorithm = plugins.load("algorithms", name).ALGORITHM
        here, there = (algorithm.loss(outputs, b, algorithm.config())[0].total for b in (batch, moved))
        assert (here != there) == changes, name
