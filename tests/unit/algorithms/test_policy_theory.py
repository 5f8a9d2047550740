"""Expected gradients of the online methods, by enumeration of every outcome of a two-step policy.

The policy writes E and stops, or writes a and then a or E: completions of different length, so that a
division by the length would be seen. Each method's record gives the loss of every group that can be drawn.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from truing import plugins
from truing.math import ratios, reduce
from truing.types import Batch, Outputs

MASK = torch.tensor([[True, False], [True, True], [True, True]])  # E, aa, aE
REWARDS = torch.tensor([0.3, 1.0, -0.5]).double()


def policy(logits):
    """Return log-probs [3 completions, 2 tokens] of a policy with logits [2 states, 2 tokens]."""
    first, second = logits.log_softmax(-1)
    zero = torch.zeros_like(first[0])
    return torch.stack(
        [torch.stack(x) for x in ([first[1], zero], [first[0], second[0]], [first[0], second[1]])]
    )


def start():
    return torch.tensor([[0.4, -0.3], [-0.2, 0.9]]).double().requires_grad_()


REFERENCE = policy(torch.tensor([[-0.1, 0.5], [0.6, 0.2]]).double())


def batch_of(drawn, logprobs, **fields):
    rows = torch.tensor(drawn)
    return Batch(
        prompts=tuple(torch.zeros(1, dtype=torch.long) for _ in drawn),
        completions=torch.zeros(len(drawn), 2, dtype=torch.long),
        lengths=MASK[rows].sum(-1),
        mask=MASK[rows],
        groups=torch.zeros(len(drawn), dtype=torch.long),
        rewards=REWARDS[rows],
        old_logprobs=logprobs.detach()[rows],
        ref_logprobs=REFERENCE[rows],
        baselines=torch.full((len(drawn),), 0.25).double(),
        **fields,
    )


def expected_gradient(name, options, group_size):
    """Return the mean over all groups of the gradient of the method's loss."""
    algorithm = plugins.load("algorithms", name).ALGORITHM
    config, logits, total = algorithm.config(**options), start(), 0.0
    logprobs = policy(logits)
    probs = logprobs.detach().sum(-1).exp()
    for drawn in product(range(3), repeat=group_size):
        batch = algorithm.credit(batch_of(drawn, logprobs), config)
        outputs = Outputs(logprobs[torch.tensor(drawn)], entropy=torch.zeros(group_size, 2).double())
        terms, count = algorithm.loss(outputs, batch, config), batch.count()
        loss = sum(t.weight * t.total / count[t.unit].clamp(min=1) for t in terms)
        total = total + probs[torch.tensor(drawn)].prod() * loss
    return torch.autograd.grad(total, logits)[0]


def gradient_of(objective):
    logits = start()
    logprobs = policy(logits)
    return torch.autograd.grad(objective(logprobs, logprobs.sum(-1).exp()), logits)[0]


def loss_of_reward(logprobs, probs):
    return -(probs * REWARDS).sum()


def loss_with_kl(logprobs, probs):
    divergence = (probs * (logprobs - REFERENCE).sum(-1)).sum()
    return loss_of_reward(logprobs, probs) + 0.2 * divergence


UNBIASED = [
    ("rloo", {"kl_coef": 0.0}, 2, 1.0),
    ("rloo", {"kl_coef": 0.0}, 3, 1.0),
    ("rloo", {"kl_coef": 0.0, "ratio_level": "product"}, 2, 1.0),
    ("reinforce", {"kl_coef": 0.0, "baseline": "none"}, 1, 1.0),
    ("reinforce", {"kl_coef": 0.0, "running_return": 0.7}, 1, 1.0),
    ("remax", {"kl_coef": 0.0}, 1, 1.0),
    ("dr_grpo", {"max_tokens": 5}, 3, (2 / 3) / 5),  # the row is in its own mean: (G - 1) / G; and 1 / N
]


@pytest.mark.parametrize(("name", "options", "group_size", "factor"), UNBIASED)
def test_the_gradient_is_that_of_the_expected_reward(name, options, group_size, factor):
    got = expected_gradient(name, options, group_size)
    torch.testing.assert_close(got, factor * gradient_of(loss_of_reward))


@pytest.mark.parametrize("group_size", [2, 3])
def test_a_mean_over_a_completion_s_own_tokens_is_biased(group_size):
    """GRPO without its std is Dr. GRPO but for the length, and points elsewhere."""
    got = expected_gradient("grpo", {"scale_rewards": "none"}, group_size)
    right = gradient_of(loss_of_reward)
    assert torch.cosine_similarity(got.flatten(), right.flatten(), dim=0) < 0.99


@pytest.mark.parametrize(
    ("name", "options", "group_size"),
    [
        ("rloo", {}, 2),
        ("reinforce", {"baseline": "none"}, 1),
        ("reinforce", {"running_return": 0.1}, 1),
        ("remax", {}, 1),
    ],
)
def test_peer_37_k1_in_the_reward_is_the_gradient_of_the_kl(name, options, group_size):
    got = expected_gradient(name, {"kl_coef": 0.2, **options}, group_size)
    torch.testing.assert_close(got, gradient_of(loss_with_kl))


@pytest.mark.parametrize(("estimator", "is_right"), [("k2", True), ("k3_ratio", True), ("k3", False)])
def test_peer_37_kl_in_the_loss_follows_each_state_s_kl(estimator, is_right):
    """As a loss it moves the choices at each state, not how often a state is reached."""
    options = {"scale_rewards": "none", "kl_estimator": estimator}
    with_kl, without = (
        expected_gradient("grpo", {**options, "kl_coef": 0.2}, 1),
        expected_gradient("grpo", {"scale_rewards": "none"}, 1),
    )
    only_kl = (with_kl - without) / 0.2

    def of_states(logprobs, probs):  # seq_mean_token_mean: a completion's tokens share its weight
        x = logprobs - REFERENCE
        weights = probs.detach() / MASK.sum(-1)
        return (weights[:, None] * MASK * x.detach() * logprobs).sum()

    same = torch.allclose(only_kl, gradient_of(of_states))
    assert same is is_right


def kl_by_state(logits):
    ours = logits.log_softmax(-1)
    theirs = torch.tensor([[-0.1, 0.5], [0.6, 0.2]]).double().log_softmax(-1)
    return (ours.exp() * (ours - theirs)).sum(-1), ours.exp()[0, 0]


@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_distillation_is_the_gradient_of_the_kl_to_the_teacher(discount):
    """Discount 0: each state's own KL, states as they are drawn. Discount 1: the KL of completions."""
    got = expected_gradient("distillation", {"discount": discount}, 1)
    logits = start()
    kl, reach = kl_by_state(logits)
    whole = kl[0] + (reach if discount else reach.detach()) * kl[1]
    torch.testing.assert_close(got, torch.autograd.grad(whole, logits)[0])


@pytest.mark.parametrize("seed", range(5))
def test_gspo_is_its_token_form_while_the_advantage_is_one_number_a_row(seed):
    """arXiv:2507.18071 eq. 14: sg(s_i) pi(y_t) / sg(pi(y_t)), with clipping active on some rows."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4])[:, None]
    old, move = -torch.rand(2, 4, 5, generator=generator, dtype=torch.float64)
    advantages = torch.randn(4, 1, generator=generator, dtype=torch.float64).expand(4, 5)
    leaf = (old + 0.2 * move + 0.1).requires_grad_()
    s = ratios.sequence_ratio(ratios.log_ratio(leaf, old, mask), mask)
    token_form = s.detach() * (leaf - leaf.detach()).exp()
    found = []
    for ratio in (s, token_form):
        losses = ratios.clipped_surrogate(ratio, advantages, clip_low=0.03, clip_high=0.04)
        total = reduce.seq_mean_token_mean(losses, mask)[0]
        found.append((total.detach(), torch.autograd.grad(total, leaf, retain_graph=True)[0]))
    torch.testing.assert_close(found[0], found[1])


def test_an_unscorable_row_leaves_sum_and_count_of_the_leave_one_out_mean():
    rloo = plugins.load("algorithms", "rloo").ALGORITHM
    config = rloo.config(kl_coef=0.0)
    batch = batch_of((0, 1, 2, 1), policy(start()))
    rewards = torch.tensor([1.0, float("nan"), 0.0, 0.5]).double()
    found = rloo.credit(replace(batch, rewards=rewards), config)
    assert found.advantages[:, 0].tolist() == pytest.approx([0.75, 0.0, -0.75, 0.0])
    assert found.mask.any(-1).tolist() == [True, False, True, True]
