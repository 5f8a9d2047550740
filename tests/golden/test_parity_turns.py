"""SCoRe, PRIME and PPO-ptx against numbers from elsewhere: rewards, advantages, values and gradients."""

from __future__ import annotations

import pytest
import torch

from truing import plugins
from truing.algorithms._process import implicit_rewards, outcome_cross_entropy
from truing.algorithms.prime import process_advantages
from truing.algorithms.score import reward_of_turn, shaped_rewards
from truing.math.advantages import leave_one_out
from truing.train.batches import batch_of_rows
from truing.train.replay import mixed, with_replay
from truing.types import Algorithm, Batch, Outputs, Row, Term

SCORE = "score.rewards"


def two_attempts(golden, make_batch) -> Batch:
    """Return conversations of two tokens, one instruction token, two tokens."""
    first, second = golden.inputs["r_first"], golden.inputs["r_second"]
    turns = torch.tensor([0, 0, -1, 1, 1]).repeat(len(first), 1)
    paid = torch.full(turns.shape, torch.nan, dtype=torch.float64)
    paid[:, 1], paid[:, 4] = first, second
    return make_batch(
        turns >= 0, groups=torch.zeros(len(first), dtype=torch.long), turns=turns, turn_rewards=paid,
        rewards=second, ref_logprobs=torch.full(turns.shape, -1.3, dtype=torch.float64),
    )  # fmt: skip


def test_score_pays_each_attempt(parity, make_batch):
    golden = parity[SCORE]
    batch = two_attempts(golden, make_batch)
    first, second = (reward_of_turn(batch.turns, batch.turn_rewards, n) for n in (0, 1))
    _, only_second = shaped_rewards(first, second, stage=1, alpha=golden.params["alpha"])
    golden.check(only_second, golden.expected["stage1_reward_second"])
    both = shaped_rewards(first, second, stage=2, alpha=golden.params["alpha"])
    golden.check(both[0], golden.expected["stage2_reward_first"])
    golden.check(both[1], golden.expected["stage2_reward_second"])


@pytest.mark.parametrize("stage", [1, 2])
def test_score_value_and_gradient(parity, drive, make_batch, stage):
    """On policy the gradient is -A of the attempt a token is of; at the reference the KL has none."""
    golden = parity[SCORE]
    batch = two_attempts(golden, make_batch)
    options = {"stage": stage} | ({"alpha": golden.params["alpha"]} if stage == 2 else {})
    got = drive("score", batch, options, credit=True, logprobs=batch.ref_logprobs)
    paid = [golden.inputs["r_first"] * 0, number(golden, "stage1_reward_second")]
    if stage == 2:
        paid = [number(golden, f"stage2_reward_{n}") for n in ("first", "second")]
    count = len(batch)
    advantages = [(r - r.mean()) * count / (count - 1) for r in paid]
    expected = torch.stack([*[advantages[0]] * 2, 0 * advantages[0], *[advantages[1]] * 2], 1)
    golden.check(got.grad["logprobs"], (-expected / count).tolist())
    golden.check(got.loss, 0.0)
    for ours, theirs in {
        "accuracy_first": "acc_t1",
        "accuracy_second": "acc_t2",
        "accuracy_gain": "delta",
        "incorrect_to_correct": "incorrect_to_correct",
        "correct_to_incorrect": "correct_to_incorrect",
    }.items():
        golden.check(got.terms[f"turns/{ours}"], golden.expected[theirs])


def number(golden, key):
    return torch.tensor(golden.expected[key], dtype=torch.float64)


def prime_batch(golden, make_batch, beta=0.05) -> Batch:
    rewards, mask = golden.inputs["token_reward"], golden.inputs["mask"].bool()
    zeros = torch.zeros_like(rewards)
    return make_batch(
        mask, groups=torch.zeros(len(mask), dtype=torch.long), rewards=golden.inputs["outcome"],
        ref_logprobs=zeros, old_process_logprobs=rewards / beta,
    )  # fmt: skip


def test_prime_advantages(parity, make_batch):
    golden = parity["adv.prime"]
    batch = prime_batch(golden, make_batch)
    tokens = implicit_rewards(batch.old_process_logprobs, batch.ref_logprobs, batch.mask, beta=0.05)
    golden.check(tokens, golden.inputs["token_reward"].tolist())
    outcome = leave_one_out(batch.rewards, batch.groups)[:, None] * batch.mask
    golden.check(outcome, golden.expected["outcome_part"])
    code = process_advantages(tokens, batch.mask, batch.groups, compat=True)
    golden.check(code, golden.expected["process_code_before_whiten"])
    paper = process_advantages(tokens, batch.mask, batch.groups)
    golden.check(paper + outcome, golden.expected["advantages_paper"])
    for found, key in ((paper, "step_paper"), (code, "step_code")):
        later = torch.cat([found[:, 1:], torch.zeros(len(found), 1, dtype=found.dtype)], 1)
        golden.check((found - later) * batch.mask, golden.expected[key])


def test_prime_value_and_gradient(parity, drive, make_batch):
    """On policy the gradient of a token is -A / (number of tokens); phi's is the cross-entropy's."""
    golden = parity["adv.prime"]
    batch = prime_batch(golden, make_batch)
    logprobs = torch.full(batch.mask.shape, -1.0, dtype=torch.float64)
    found = {"logprobs": logprobs, "entropy": logprobs.abs(), "process_logprobs": batch.old_process_logprobs}
    got = drive("prime", batch, credit=True, **found)
    golden.check(got.batch.advantages, golden.expected["advantages_paper"])
    expected = -number(golden, "advantages_paper") / batch.mask.sum()
    golden.check(got.grad["logprobs"], expected.tolist())
    totals = (golden.inputs["token_reward"] * batch.mask).sum(-1)
    slope = 0.05 * (totals.sigmoid() - golden.inputs["outcome"]) / len(batch)
    golden.check(got.grad["process_logprobs"], (slope[:, None] * batch.mask).tolist())


def test_prime_compat_is_the_released_code_whitened(parity, drive, make_batch):
    golden = parity["adv.prime"]
    batch = prime_batch(golden, make_batch)
    logprobs = torch.full(batch.mask.shape, -1.0, dtype=torch.float64)
    found = {"logprobs": logprobs, "entropy": logprobs.abs(), "process_logprobs": batch.old_process_logprobs}
    got = drive("prime", batch, {"prime_compat": True}, credit=True, **found)
    raw = (number(golden, "process_code_before_whiten") + number(golden, "outcome_part"))[batch.mask]
    golden.check(got.batch.advantages[batch.mask], ((raw - raw.mean()) / (raw.var() + 1e-8).sqrt()).tolist())


def test_the_process_model_s_cross_entropy(parity):
    golden = parity["rm.implicit_prm_ce"]
    logprobs, mask = golden.inputs["logps"].clone().requires_grad_(), golden.inputs["mask"].bool()
    rewards = implicit_rewards(logprobs, golden.inputs["ref_logps"], mask, beta=golden.params["beta"])
    golden.check(rewards.detach(), golden.expected["token_reward"])
    loss = outcome_cross_entropy(rewards, golden.inputs["outcome"]).mean()
    loss.backward()
    golden.check(loss.detach(), golden.expected["loss"])
    golden.check(logprobs.grad, golden.expected["grad"]["logps"])


def test_ppo_ptx_is_ppo_with_replay(parity, make_batch):
    """The loop's loss with replay; the gradient on demonstrations is -weight / (number of their tokens)."""
    golden = parity["ppo.ptx"]
    main = make_batch(torch.tensor([[1, 1, 1], [1, 1, 0]]))
    value = golden.inputs["ppo_loss"]
    ppo = plugins.load("algorithms", "ppo").ALGORITHM

    def loss(outputs: Outputs, batch: Batch, config: object) -> list[Term]:
        assert batch.replay is None
        assert len(batch) == len(outputs.logprobs) == 1  # of two rows: the other one is a demonstration
        return [Term("loss/policy", value * batch.mask.sum(), "token")]

    method = with_replay(Algorithm(ppo.source, ppo.config, loss), weight=golden.params["gamma"])
    rows = [Row("a", (1,), (5, 6), (True, True)), Row("b", (1,), (5, 6, 7, 8), (True, False, True, True))]
    batch = method.credit(mixed(main, batch_of_rows(rows)), ppo.config())
    logprobs = torch.full(batch.mask.shape, float("nan"), dtype=torch.float64)
    logprobs[batch.mask] = -golden.inputs["pretrain_nll"]
    logprobs.requires_grad_()
    total, count = torch.zeros((), dtype=torch.float64), batch.count()
    for index in (torch.tensor([0, 2]), torch.tensor([1, 3])):
        micro = batch.rows(index)
        terms = method.loss(Outputs(logprobs[index, : micro.mask.shape[1]]), micro, None)
        total = total + sum(t.weight * t.total / count[t.unit] for t in terms)
    golden.check(total.detach(), golden.expected["loss"])
    total.backward()
    expected = -golden.params["gamma"] / 5 * (batch.mask & batch.replay[:, None]).double()
    golden.check(logprobs.grad, expected.tolist())
