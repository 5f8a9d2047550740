"""The methods that learn from pairs they sample themselves, against numbers from elsewhere."""

from __future__ import annotations

import math

import pytest
import torch

from truing import plugins
from truing.algorithms._sampled_pairs import win_probabilities


def by_prompt(values):
    """Return what TRL orders as all first, then all second samples, group by group."""
    return values.view(2, -1, *values.shape[1:]).transpose(0, 1).flatten(0, 1)


def drive_online_dpo(golden, drive, make_batch, **options):
    inputs = {k: by_prompt(v) for k, v in golden.inputs.items()}
    num_prompts = len(inputs["rewards"]) // 2
    batch = make_batch(
        inputs["completion_mask"],
        groups=torch.arange(num_prompts).repeat_interleave(2),
        uids=tuple(str(i) for i in range(2 * num_prompts)),
        rewards=inputs["rewards"],
        truncated=~inputs["contains_eos"].bool(),
        ref_logprobs=inputs["ref_per_token_logps"],
    )
    got = drive_credited("online_dpo", drive, batch, options, inputs["per_token_logps"])
    grad = torch.zeros_like(inputs["per_token_logps"])
    grad[[int(u) for u in got.batch.uids]] = got.grad["logprobs"]
    return got, grad.view(num_prompts, 2, -1).transpose(0, 1).flatten(0, 1)


def drive_credited(name, drive, batch, options, logprobs):
    """Drive the rows that credit picked, in their order."""
    algorithm = plugins.load("algorithms", name).ALGORITHM
    credited = algorithm.credit(batch, algorithm.config(**options))
    rows = [int(u) for u in credited.uids]
    return drive(name, credited, options, logprobs=logprobs[rows])


ONLINE = [
    ("online_dpo.sigmoid", {}),
    ("online_dpo.tie_first_wins", {"ties": "first"}),
    ("online_dpo.missing_eos", {"missing_eos_penalty": 1.0}),
    ("online_dpo.ipo", {"loss": "ipo"}),
]


@pytest.mark.parametrize(("id", "options"), ONLINE, ids=[i for i, _ in ONLINE])
def test_online_dpo(parity, drive, make_batch, id, options):
    golden = parity[id]
    got, grad = drive_online_dpo(golden, drive, make_batch, **options)
    golden.check(got.loss, golden.expected["loss"])
    golden.check(grad, golden.expected["grad"]["per_token_logps"])
    first = [int(u) % 2 == 0 for u in got.batch.uids[: len(got.batch) // 2]]
    assert first == golden.expected["chosen_is_first"]


def test_peer_26_a_tie_is_no_win_for_the_first_sample(parity, drive, make_batch):
    """TRL's number takes the first of two equal completions as the better one; ours drops the pair."""
    golden = parity["online_dpo.tie_first_wins"]
    got, grad = drive_online_dpo(golden, drive, make_batch)
    assert len(got.batch) == 2
    assert got.batch.kept_share.tolist() == [0.5, 0.5]
    assert (grad[[0, 2]] == 0).all()
    expected = torch.tensor(golden.expected["grad"]["per_token_logps"], dtype=torch.float64)
    golden.check(grad[[1, 3]], (2 * expected[[1, 3]]).tolist())  # a mean over one pair instead of two


def drive_pairs(name, golden, drive, make_batch, anchor, options=None, **fields):
    mask = golden.inputs["completion_mask"][:, 1:]
    batch = make_batch(mask, **{anchor: golden.inputs["ref_per_token_logps"]}, **fields)
    return drive(name, batch, options, logprobs=golden.inputs["per_token_logps"])


@pytest.mark.parametrize("name", ["spin", "iterative_dpo"])
def test_dpo_against_the_policy_that_began_the_round(parity, drive, make_batch, name):
    golden = parity["dpo.sigmoid"]
    got = drive_pairs(name, golden, drive, make_batch, "old_logprobs", paired=True)
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["logprobs"], golden.expected["grad"]["per_token_logps"])


def test_iterative_dpo_against_the_start_is_dpo(parity, drive, make_batch):
    golden, options = parity["dpo.sigmoid"], {"anchor": "start"}
    got = drive_pairs("iterative_dpo", golden, drive, make_batch, "ref_logprobs", options, paired=True)
    golden.check(got.loss, golden.expected["loss"])


def test_iterative_dpo_with_the_paper_s_likelihood(parity, drive, make_batch):
    golden = parity["dpo.rpo_sequence_norm"]
    options = {"nll_weight": golden.params["alpha"], "beta": golden.params["beta"]}
    got = drive_pairs("iterative_dpo", golden, drive, make_batch, "old_logprobs", options, paired=True)
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["logprobs"], golden.expected["grad"]["per_token_logps"])


def test_sppo_with_soft_probabilities(parity, drive, make_batch):
    golden = parity["dpo.sppo_soft"]
    labels = torch.cat([golden.inputs["win_prob_chosen"], golden.inputs["win_prob_rejected"]])
    options = {"eta": 1 / golden.params["beta"]}
    got = drive_pairs("sppo", golden, drive, make_batch, "old_logprobs", options, labels=labels)
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["logprobs"], golden.expected["grad"]["per_token_logps"])


@pytest.mark.parametrize("id", ["dpo.sppo_hard_beta0.1", "dpo.sppo_hard_beta0.001"])
def test_sppo_with_wins_of_groups_of_two_is_half_of_trl_s(parity, drive, make_batch, id):
    """Rows go through credit: two completions a prompt, the first three rows the better ones."""
    golden = parity[id]
    mask = golden.inputs["completion_mask"][:, 1:]
    batch = make_batch(
        mask,
        groups=torch.arange(3).repeat(2),
        uids=tuple(map(str, range(6))),
        rewards=torch.tensor([1.0, 1, 1, 0, 0, 0]).double(),
        old_logprobs=golden.inputs["ref_per_token_logps"],
    )
    options = {"eta": 1 / golden.params["beta"], "preference": "wins"}
    got = drive_credited("sppo", drive, batch, options, golden.inputs["per_token_logps"])
    golden.check(2 * got.loss, golden.expected["loss"])
    golden.check(2 * got.grad["logprobs"], golden.expected["grad"]["per_token_logps"])


@pytest.mark.parametrize(("id", "form"), [("rebel.paper", "paper"), ("rebel.repo", "code")])
def test_rebel(parity, drive, make_batch, id, form):
    golden = parity[id]
    margins, options = (
        golden.inputs["reward_difference"].repeat(2),
        {"eta": golden.params["eta"], "form": form},
    )
    got = drive_pairs(
        "rebel", golden, drive, make_batch, "old_logprobs", options, paired=True, margins=margins
    )
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["logprobs"], golden.expected["grad"]["per_token_logps"])


def test_xpo(parity, drive, make_batch):
    golden = parity["xpo"]
    chosen = golden.inputs["chosen_sampled_from_reference"].bool()
    options = {"beta": golden.params["beta"], "xpo_alpha": golden.params["alpha"]}
    by_opponent = torch.cat([chosen, ~chosen])
    got = drive_pairs(
        "xpo", golden, drive, make_batch, "ref_logprobs", options, paired=True, by_opponent=by_opponent
    )
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["logprobs"], golden.expected["grad"]["per_token_logps"])


def test_nash_md(parity, drive, make_batch):
    golden = parity["nash_md"]
    batch = make_batch(
        torch.ones(3, 5),
        ref_logprobs=golden.inputs["ref_per_token_logps"],
        labels=golden.inputs["win_prob_vs_mixture"],
    )
    got = drive("nash_md", batch, {"beta": golden.params["beta"]}, logprobs=golden.inputs["per_token_logps"])
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["logprobs"], golden.expected["grad"]["per_token_logps"])


def test_win_probabilities_by_hand():
    rewards = torch.tensor([1.0, 1.0, 0.0, 5.0, float("nan")]).double()
    groups, everyone = [[0, 1, 2], [3]], torch.ones(5, dtype=torch.bool)
    wins = win_probabilities(rewards, groups, everyone, preference="wins")
    torch.testing.assert_close(wins[:3], torch.tensor([0.75, 0.75, 0.0]).double())
    assert wins[3:].isnan().all(), "a completion without a rival has no probability"
    soft = win_probabilities(rewards, groups, everyone, preference="bradley_terry")
    sigma = 1 / (1 + math.exp(-1.0))
    torch.testing.assert_close(soft[:3], torch.tensor([(0.5 + sigma) / 2] * 2 + [1 - sigma]).double())
    assert float(soft[:3].mean()) == pytest.approx(0.5), "probabilities of a group against itself average 1/2"
