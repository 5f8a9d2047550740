"""Reward models recover a known order of completions, also from noisy labels; planted bugs are seen.

The known order: a completion is better the more of its tokens are p + 1 (see toy). Each method learns
from its own kind of feedback on random completions, and must rank fresh ones by that share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import toy
from torch import Tensor
from toy import PROMPTS, WIDTH, graded, prompt_ids, right_tokens

from truing.math.scores import correlation
from truing.types import Batch

NOISE = 0.5  # of each judgement, beside qualities from 0 to 6: two judgements of one pair may differ


def judged(batch: Batch, noise: float) -> Tensor:
    """Return each completion's quality as one judge sees it; judges contradict each other in circles."""
    return right_tokens(batch).sum(-1) + noise * torch.randn(len(batch))


def pairs(num: int, noise: float, band: float = 0.0) -> Batch:
    """Judge pairs one by one, each with noise of its own; differences inside the band are ties."""
    batch = graded(num, 2)
    return paired(batch, judged(batch, noise), band)


def paired(batch: Batch, seen: Tensor, band: float) -> Batch:
    """Return neighbouring rows as pairs, the one that is seen as better first."""
    left = torch.arange(0, len(batch), 2)
    ahead = seen[left] - seen[left + 1]
    chosen, rejected = torch.where(ahead >= 0, left, left + 1), torch.where(ahead >= 0, left + 1, left)
    labels = torch.where(ahead.abs() < band, 0.5, 1.0)
    return replace(batch.rows(torch.cat([chosen, rejected])), paired=True, labels=labels.repeat(2))


def unpaired(num: int, noise: float) -> Batch:
    batch = graded(num, 1)
    return replace(batch, labels=(judged(batch, noise) > WIDTH / 2).float())


DATA: dict[str, Callable[[int, float], Batch]] = {
    "pairs": lambda n, noise: pairs(n // 2, noise),
    "ties": lambda n, noise: pairs(n // 2, noise, band=1.0),
    "rankings": toy.rankings,
    "unpaired": unpaired,
    "steps": toy.steps,
}
FEEDBACK = {  # what each method learns from
    "reward_model": "pairs",
    "thurstone": "pairs",
    "mars": "pairs",
    "odin": "pairs",
    "rao_kupper": "ties",
    "davidson": "ties",
    "plackett_luce": "rankings",
    "all_pairs_ranking": "rankings",
    "outcome_reward": "unpaired",
    "implicit_process_reward": "unpaired",
    "process_reward": "steps",
}


def data_of(kind: str, noise: float = NOISE) -> Callable[[int], Batch]:
    return lambda num: DATA[kind](2 * num, noise)


def kendall_tau(scores: Tensor, truth: Tensor) -> float:
    """Return the agreement of two orders over the pairs that differ in truth: 1 for the same, 0 for none."""
    upper = torch.triu(torch.ones(len(truth), len(truth)), 1).bool()
    wanted = (truth[:, None] - truth[None, :])[upper].sign()
    found = (scores[:, None] - scores[None, :])[upper].sign()
    return float((wanted * found).sum() / wanted.abs().sum())


@torch.no_grad()
def order_recovered(run: toy.ToyRun) -> float:
    """Return Kendall's tau of scores and quality over fresh completions of a prompt, mean over prompts."""
    torch.manual_seed(999)
    taus = []
    for prompt in range(PROMPTS):
        batch = graded(800, 1)
        batch = batch.rows((prompt_ids(batch)[:, 0] == prompt).nonzero()[:, 0])
        taus.append(kendall_tau(scores_of(run, batch), truth_of(run, batch)))
    return sum(taus) / len(taus)


def truth_of(run: toy.ToyRun, batch: Batch) -> Tensor:
    """Return what the score stands for: a process reward model's last one, the last step alone."""
    right = right_tokens(batch)
    return (right[:, WIDTH // 2 :] if run.config.data == "steps" else right).sum(-1)


def scores_of(run: toy.ToyRun, batch: Batch) -> Tensor:
    if "ref_logprobs" not in run.config.needs():
        return run.learner.forward(batch, frozenset({"scores"})).require("scores")
    needs = frozenset({"logprobs"})
    own, start = (who.forward(batch, needs).require("logprobs") for who in (run.learner, run.reference))
    return ((own - start) * batch.mask).sum(-1)


METHODS = {
    name: toy.Case(name, order_recovered, 0.9, {"num_steps": 150, "data": data_of(kind)})
    for name, kind in FEEDBACK.items()
}
METHODS["implicit_process_reward"] = toy.Case(
    "implicit_process_reward",
    order_recovered,
    0.9,
    {**METHODS["implicit_process_reward"].how, "options": {"beta": 0.5}},
)
# half of what it learns goes to the head that is thrown away, so it needs longer for the same order
METHODS["odin"] = toy.Case("odin", order_recovered, 0.9, {**METHODS["odin"].how, "num_steps": 300})


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", METHODS)
def test_it_recovers_the_order_from_judges_that_contradict_each_other(name: str, seed: int) -> None:
    assert METHODS[name].achieved(seed=seed) >= METHODS[name].enough


@pytest.mark.parametrize("name", METHODS)
def test_the_check_sees_a_learning_rate_of_zero(name: str) -> None:
    assert METHODS[name].achieved(learning_rate=0.0, num_steps=2) < 0.5


BUGS = [(n, toy.flipped_sign) for n in METHODS]
BUGS += [(n, toy.swapped_pairs) for n, kind in FEEDBACK.items() if kind in ("pairs", "ties")]
BUGS += [(n, toy.swapped_labels) for n, kind in FEEDBACK.items() if kind == "unpaired"]


@pytest.mark.parametrize(("name", "bug"), BUGS, ids=[f"{n}-{b.__name__}" for n, b in BUGS])
def test_the_check_sees_a_planted_bug(name: str, bug: Any) -> None:
    assert METHODS[name].achieved(bug=bug, num_steps=40) < 0


def test_a_tie_parameter_finds_the_share_of_ties() -> None:
    for name in ("rao_kupper", "davidson"):
        run = toy.learn(name, num_steps=150, data=data_of("ties"))
        last = run.history[-30:]
        predicted, labelled = (
            sum(m[f"rewards/{key}"] for m in last) / len(last) for key in ("tie_share_predicted", "tie_share")
        )
        assert abs(predicted - labelled) < 0.05
        assert abs(run.history[-1]["rewards/tie_width"] - run.history[0]["rewards/tie_width"]) > 0.1


def by_length(num: int) -> Batch:
    """Judge pairs by the share of right tokens, and by length at least as much."""
    batch = graded(num, 2)
    lengths = torch.randint(3, WIDTH + 1, (2 * num,))
    batch = toy.make_batch(prompt_ids(batch)[:, 0], batch.completions, lengths, groups=batch.groups)
    share = right_tokens(batch).sum(-1) / lengths
    return paired(batch, 3 * share + 2 * (lengths - 4.5), band=0.0)


def length_correlation(name: str) -> float:
    run = toy.learn(name, num_steps=100, data=by_length)
    torch.manual_seed(999)
    batch = by_length(400)
    with torch.no_grad():
        scores = run.learner.forward(batch, frozenset({"scores"})).require("scores")
    return abs(float(correlation(scores, batch.lengths.float())))


def test_odin_s_quality_head_knows_less_of_length() -> None:
    assert length_correlation("odin") < 0.3 < 0.6 < length_correlation("reward_model")
