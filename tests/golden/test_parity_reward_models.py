"""Reward models against numbers from elsewhere: value, gradient, and what is done with scores."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from truing import plugins
from truing.algorithms._process import implicit_rewards
from truing.algorithms._ties import LOSS, TIE, WIN
from truing.algorithms.davidson import davidson_logprobs
from truing.algorithms.mars import margin_shares
from truing.algorithms.plackett_luce import plackett_luce_loss
from truing.algorithms.rao_kupper import rao_kupper_logprobs
from truing.data.step_labels import from_ratings, from_rollouts
from truing.evals.processbench import first_errors
from truing.math.scores import combine_scores, correlation, disagreement, fit_calibration
from truing.types import Outputs


def ranking_batch(golden, make_batch, ranks):
    num_prompts, size = golden.inputs["scores"].shape
    groups = torch.arange(num_prompts).repeat_interleave(size)
    return make_batch(torch.ones(num_prompts * size, 1), groups=groups, ranks=ranks.flatten())


def ranks_of(golden):
    """Return the rank of each completion, 1 is best, from the fixture's order."""
    return golden.inputs["ranking_best_first"].long().argsort(-1) + 1


def check_rankings(golden, got):
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["scores"].view(golden.inputs["scores"].shape), golden.expected["grad"]["scores"])


def test_plackett_luce(parity, drive, make_batch):
    golden = parity["rm.plackett_luce"]
    ranks, scores = ranks_of(golden), golden.inputs["scores"]
    got = drive("plackett_luce", ranking_batch(golden, make_batch, ranks), scores=scores.flatten())
    check_rankings(golden, got)
    ordered = [s[order.long()] for s, order in zip(scores, golden.inputs["ranking_best_first"], strict=True)]
    each = torch.stack([plackett_luce_loss(s, torch.arange(4)) for s in ordered])
    golden.check(each, golden.expected["nll_per_group"])


def test_probabilities_of_all_orders_sum_to_1(parity):
    golden = parity["rm.plackett_luce"]
    for scores, expected in zip(
        golden.inputs["scores"], golden.expected["sum_of_probs_over_orders"], strict=True
    ):
        losses = [
            plackett_luce_loss(scores[list(o)], torch.arange(4)) for o in itertools.permutations(range(4))
        ]
        golden.check(torch.stack(losses).neg().exp().sum(), expected)


@pytest.mark.parametrize("ranks", [[1, 1, 3, 4], [1, 2, 2, 4], [1, 1, 3, 3], [1, 2, 2, 2], [1, 1, 1, 4]])
def test_a_tied_block_is_the_sum_over_its_orders(parity, ranks):
    ties = torch.tensor(ranks)
    for scores in parity["rm.plackett_luce"].inputs["scores"]:
        orders = [o for o in itertools.permutations(range(4)) if sorted(ranks) == [ranks[i] for i in o]]
        each = torch.stack([plackett_luce_loss(scores[list(o)], torch.arange(4)) for o in orders])
        torch.testing.assert_close(plackett_luce_loss(scores, ties), -(-each).logsumexp(0))


def test_best_of_k(parity, drive, make_batch):
    golden = parity["rm.best_of_k_softmax"]
    best = F.one_hot(golden.inputs["best"].long(), 4)
    scores = golden.inputs["scores"].flatten()
    for ranks, top_m in ((2 - best, 0), (2 - best, 1)):
        batch = ranking_batch(golden, make_batch, ranks)
        check_rankings(golden, drive("plackett_luce", batch, {"top_m": top_m}, scores=scores))
    full = (best * -10 + torch.arange(4)).argsort(-1).argsort(-1) + 1  # the best, then any strict order
    batch = ranking_batch(golden, make_batch, full)
    check_rankings(golden, drive("plackett_luce", batch, {"top_m": 1}, scores=scores))


def test_all_pairs(parity, drive, make_batch):
    golden = parity["rm.all_pairs_k_choose_2"]
    batch = ranking_batch(golden, make_batch, ranks_of(golden))
    check_rankings(golden, drive("all_pairs_ranking", batch, scores=golden.inputs["scores"].flatten()))


@pytest.mark.parametrize("id", ["rm.thurstone_sigma1", "rm.thurstone_case5_sqrt2"])
def test_thurstone(parity, drive, make_batch, id):
    golden = parity[id]
    chosen, rejected = golden.inputs["chosen"], golden.inputs["rejected"]
    batch = make_batch(torch.ones(2 * len(chosen), 1), paired=True)
    options = {"scale": golden.params["scale"]}
    got = drive("thurstone", batch, options, scores=torch.cat([chosen, rejected]))
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["scores"], golden.expected["grad"]["chosen"] + golden.expected["grad"]["rejected"])


def test_thurstone_far_in_the_tail(parity, drive, make_batch):
    golden = parity["rm.thurstone_stability"]
    for x, expected in zip(golden.inputs["x"], golden.expected["log_ndtr"], strict=True):
        got = drive(
            "thurstone",
            make_batch(torch.ones(2, 1), paired=True),
            scores=torch.stack([x, torch.zeros_like(x)]),
        )
        golden.check(got.loss, -expected)
        assert -x < -got.grad["scores"][0] < -x + 1 / -x  # Mills' ratio: the pull grows with the violation


def tied_batch(golden, make_batch):
    """Return the fixture's pairs with the winner as chosen, and the order of their scores."""
    outcome = golden.inputs["outcome_0a_1b_2tie"]
    label = torch.where(outcome == 2, 0.5, 1 - outcome)
    return make_batch(torch.ones(2 * len(label), 1), paired=True, labels=label.repeat(2))


TIES = {
    "rm.rao_kupper": ("rao_kupper", "theta", rao_kupper_logprobs),
    "rm.davidson": ("davidson", "nu", davidson_logprobs),
}


@pytest.mark.parametrize("id", ["rm.rao_kupper", "rm.davidson"])
@pytest.mark.parametrize("learned", [True, False])
def test_peer_26_ties_are_ties(parity, make_batch, id, learned):
    golden = parity[id]
    name, key, logprobs_of = TIES[id]
    value, algorithm = golden.params[key], plugins.load("algorithms", name).ALGORITHM
    a, b = golden.inputs["score_a"], golden.inputs["score_b"]
    scores = torch.cat([a, b]).requires_grad_()
    tie = torch.zeros((), dtype=torch.float64, requires_grad=True)
    outputs = Outputs(scores=scores, parameters={"tie": tie} if learned else None)
    batch = tied_batch(golden, make_batch)
    terms = algorithm.loss(outputs, batch, algorithm.config(**{key: value, f"learn_{key}": learned}))
    loss = terms[0].total / batch.count()[terms[0].unit]
    loss.backward()
    golden.check(loss.detach(), golden.expected["loss"])
    golden.check(scores.grad, golden.expected["grad"]["score_a"] + golden.expected["grad"]["score_b"])
    if learned:  # d theta/dw = theta sigmoid(w) = theta - 1, as softplus(w) = log theta; d nu/dw = nu
        slope = value - 1 if key == "theta" else value
        golden.check(tie.grad / slope, golden.expected["grad"][key])
    probabilities = logprobs_of(a, b, torch.tensor(value, dtype=torch.float64).log()).exp()
    golden.check(probabilities[:, [WIN, LOSS, TIE]], golden.expected["probs"])


def test_outcome_reward(parity, drive, make_batch):
    golden = parity["rm.orm_bce"]
    logits, labels = golden.inputs["logit"], golden.inputs["label"]
    got = drive("outcome_reward", make_batch(torch.ones(len(logits), 1), labels=labels), scores=logits)
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["scores"], golden.expected["grad"]["logit"])
    alone = drive(
        "outcome_reward", make_batch(torch.ones(len(logits), 1), labels=labels), {"every_token": True},
        token_scores=logits[:, None],
    )  # fmt: skip
    golden.check(alone.loss, golden.expected["loss"])  # completions of one token: both variants agree


def labels_of(golden):
    labels = golden.inputs["labels"]
    return torch.where(labels == -100, torch.nan, labels)


@pytest.mark.parametrize("reduction", ["step_mean", "solution_mean"])
def test_process_reward(parity, drive, make_batch, reduction):
    golden = parity["rm.prm_bce"]
    labels = labels_of(golden)
    batch = make_batch(torch.ones(labels.shape), step_labels=labels)
    got = drive("process_reward", batch, {"reduction": reduction}, token_scores=golden.inputs["logit"])
    golden.check(got.loss, golden.expected[f"loss_{reduction}"])
    golden.check(got.grad["token_scores"], golden.expected[f"grad_{reduction}"])


def test_two_classes_are_one_logit(parity, drive, make_batch):
    golden = parity["rm.prm_two_class_ce"]
    labels, logits = labels_of(golden), golden.inputs["logits"]
    batch = make_batch(torch.ones(labels.shape), step_labels=labels)
    got = drive("process_reward", batch, token_scores=logits[..., 1] - logits[..., 0])
    golden.check(got.loss, golden.expected["loss"])


@pytest.mark.parametrize("how", ["hard", "soft"])
def test_step_labels_from_rollouts(parity, how):
    golden = parity["rm.mc_step_labels"]
    correct = golden.inputs["rollout_correct"].tolist()
    golden.check(torch.tensor(from_rollouts(correct, how=how)).double(), golden.expected[how])


@pytest.mark.parametrize("neutral", ["good", "bad"])
def test_step_labels_from_ratings(neutral):
    path = Path(__file__).with_name("parity.json")
    fixtures = json.loads(path.read_text(encoding="utf-8"))["fixtures"]
    golden = next(f for f in fixtures if f["id"] == "rm.prm800k_labels")
    expected = golden["expected"][f"neutral_as_{neutral}"]
    assert [from_ratings(r, neutral=neutral) for r in golden["inputs"]["ratings"]] == expected
    assert from_ratings([1, -1, 1, -1], neutral=neutral) == [1, 0, None, None]


def test_implicit_process_reward(parity, drive, make_batch):
    golden = parity["rm.implicit_prm_ce"]
    given = golden.inputs
    batch = make_batch(given["mask"], labels=given["outcome"], ref_logprobs=given["ref_logps"])
    options = {"beta": golden.params["beta"]}
    got = drive("implicit_process_reward", batch, options, logprobs=given["logps"])
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["logprobs"], golden.expected["grad"]["logps"])
    rewards = implicit_rewards(given["logps"], given["ref_logps"], given["mask"].bool(), **options)
    golden.check(rewards, golden.expected["token_reward"])


@pytest.mark.parametrize("id", ["rm.mars_weights_tau1", "rm.mars_weights_tau5"])
def test_mars(parity, drive, make_batch, id):
    golden = parity[id]
    margins, tau, budget = golden.inputs["margin"], golden.params["tau"], golden.params["budget"]
    shares = margin_shares(margins, tau=tau)
    golden.check(shares, golden.expected["q"])
    golden.check(budget * shares, golden.expected["expected_augmentations"])
    scores = torch.cat([margins, torch.zeros_like(margins)])
    curvature = torch.autograd.functional.hessian(lambda d: -F.logsigmoid(d).sum(), margins).diagonal()
    golden.check(curvature, golden.expected["bt_curvature"])
    batch = make_batch(torch.ones(2 * len(margins), 1), paired=True, old_scores=scores)
    number = len(margins)
    got = drive("mars", batch, {"tau": tau, "budget": budget / number}, credit=True, scores=scores)
    seen = (1 + budget * golden.inputs["margin"].new_tensor(golden.expected["q"])) / (number + budget)
    golden.check(got.loss, (seen * -F.logsigmoid(margins)).sum().tolist())
    golden.check(got.grad["scores"][:number], (-seen * (-margins).sigmoid()).tolist())


def test_odin(parity, drive, make_batch):
    golden = parity["rm.odin"]
    quality, length = (golden.inputs[k].T.flatten() for k in ("r_quality", "r_length"))
    tokens = golden.inputs["length"].T.flatten()
    mask = torch.arange(int(tokens.max())) < tokens[:, None]
    batch = make_batch(mask, lengths=tokens.long(), paired=True, old_scores=quality, old_length_scores=length)
    options = {"length_coef": golden.params["lambda_length"], "overlap_coef": 0.0}
    got = drive("odin", batch, options, credit=True, scores=quality, length_scores=length)
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.terms["loss/bradley_terry"], golden.expected["ranking"])
    golden.check(correlation(quality, tokens).abs(), golden.expected["corr_quality_head"])
    golden.check(correlation(length, tokens), golden.expected["corr_length_head"])
    golden.check(got.grad["scores"].view(2, -1).T, golden.expected["grad"]["r_quality"])
    golden.check(got.grad["length_scores"].view(2, -1).T, golden.expected["grad"]["r_length"])


def test_ensemble(parity):
    golden = parity["rm.ensemble"]
    scores, penalty = golden.inputs["rewards"], golden.params["lambda"]
    golden.check(combine_scores(scores, how="mean"), golden.expected["mean"])
    golden.check(combine_scores(scores, how="worst"), golden.expected["worst_case"])
    ours = combine_scores(scores, how="uncertainty", penalty=penalty)
    golden.check(ours, golden.expected["uwo_var_ddof0"])
    members = len(scores)
    ppo = combine_scores(scores, how="uncertainty", penalty=penalty * members / (members - 1))
    golden.check(ppo, golden.expected["uwo_var_ddof1"])
    golden.check(disagreement(scores), scores.var(0, correction=0).sqrt().tolist())
    zero = combine_scores(scores, how="uncertainty", penalty=0.0)
    golden.check(zero, golden.expected["mean"])  # a penalty of 0 is 0, not a default


def test_normalisation(parity):
    golden = parity["rm.normalise"]
    rewards = golden.inputs["reference_rewards"]
    found = fit_calibration(rewards, torch.ones_like(rewards))
    golden.check(found.gain, golden.expected["gain_ddof0"])
    golden.check(found.bias, golden.expected["bias_ddof0"])
    number = len(rewards)
    golden.check(found.gain * math.sqrt((number - 1) / number), golden.expected["gain_ddof1"])


def test_processbench():
    path = Path(__file__).with_name("parity.json")
    fixtures = json.loads(path.read_text(encoding="utf-8"))["fixtures"]
    golden = next(f for f in fixtures if f["id"] == "rm.processbench_f1")
    given, expected = golden["inputs"], golden["expected"]
    found = first_errors(
        given["step_scores"], given["gold_first_error"], threshold=golden["params"]["threshold"]
    )
    assert list(found.predicted) == expected["predicted"]
    assert (found.error_accuracy, found.correct_accuracy) == (expected["acc_error"], expected["acc_correct"])
    assert found.f1 == pytest.approx(expected["f1"])
    every_step_good = first_errors([[0.9] * 5] * 6, given["gold_first_error"], threshold=0.5)
    assert every_step_good.f1 == 0
