"""The methods of the DPO family with a reference against numbers from elsewhere: value, gradient, metrics."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from truing import plugins
from truing.algorithms.aot import equal_ranks
from truing.config import Data
from truing.data.fitting import fit_together
from truing.math.advantages import group_advantages
from truing.train.batches import batch_of_pairs
from truing.types import Outputs, Pair, Row

FAMILY = [  # fixture, method, options
    ("dpo.robust", "robust_dpo", {"flip_rate": 0.1}),
    ("dpo.hinge", "hinge_dpo", {}),
    ("dpo.ipo_sum", "ipo", {}),
    ("dpo.ipo_token_mean", "ipo", {"reduction": "token_mean"}),
    ("dpo.exo_pair", "exo", {}),
    ("dpo.nca_pair", "nca", {}),
    ("dpo.bco_pair", "bco", {"shift_decay": 1.0}),
    ("dpo.apo_zero", "apo", {}),
    ("dpo.apo_down", "apo", {"variant": "down"}),
    ("dpo.aot", "aot", {"label_smoothing": 0.1}),
    ("dpo.aot_unpaired", "aot", {"variant": "unpaired", "label_smoothing": 0.1}),
    ("dpo.discopop", "discopop", {}),
    ("dpo.sigmoid_norm", "ln_dpo", {"beta": 0.1}),
    ("dpo.sigmoid_norm_beta5", "ln_dpo", {}),
    ("dpo.rpo", "rpo", {"nll_reduction": "token_mean"}),
    ("dpo.rpo_sequence_norm", "rpo", {}),
    ("dpo.f_forward_kl", "f_dpo", {"divergence": "forward_kl"}),
    ("dpo.f_js_divergence", "f_dpo", {}),
    ("dpo.f_alpha_divergence", "f_dpo", {"divergence": "alpha", "alpha": 0.5}),
    ("dpo.ld_dpo", "ld_dpo", {}),
]


def drive_pairs(golden, drive, make_batch, name, **options):
    """Drive a method on a fixture's pairs; where it sorts, credit has the policy that begins the batch."""
    logprobs = golden.inputs["per_token_logps"]
    batch = make_batch(
        golden.inputs["completion_mask"][:, 1:], paired=True, ref_logprobs=golden.inputs["ref_per_token_logps"],
        old_logprobs=logprobs, uids=tuple(str(i) for i in range(len(logprobs))),
    )  # fmt: skip
    algorithm = plugins.load("algorithms", name).ALGORITHM
    batch = algorithm.credit(batch, algorithm.config(**options))
    order = torch.tensor([int(uid) for uid in batch.uids])  # credit may give a row another partner
    got = drive(name, batch, options, logprobs=logprobs[order])
    grad = torch.zeros_like(logprobs)
    grad[order] = got.grad["logprobs"]
    return got, grad


@pytest.mark.parametrize(("id", "name", "options"), FAMILY, ids=[f[0] for f in FAMILY])
def test_value_and_gradient(parity, drive, make_batch, id, name, options):
    golden = parity[id]
    got, grad = drive_pairs(golden, drive, make_batch, name, **options)
    golden.check(got.loss, golden.expected["loss"])
    golden.check(grad, golden.expected["grad"]["per_token_logps"])


@pytest.mark.parametrize("max_weight", [0.0, 1.0])
def test_wpo_weighs_pairs(parity, drive, make_batch, max_weight):
    """log sum p^2 = 2 log p - log p at half the temperature; no pair of the fixture weighs more than 1."""
    golden = parity["dpo.wpo"]
    logprobs, mask = golden.inputs["per_token_logps"], golden.inputs["completion_mask"][:, 1:]
    sharp = 2 * logprobs - golden.inputs["log_sum_sq_probs"]
    batch = make_batch(mask, paired=True, ref_logprobs=golden.inputs["ref_per_token_logps"])
    got = drive("wpo", batch, {"max_weight": max_weight}, logprobs=logprobs, sharp_logprobs=sharp)
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["logprobs"], golden.expected["grad"]["per_token_logps"])
    assert got.grad["sharp_logprobs"] is None


def test_the_likelihood_term_alone(parity, drive, make_batch):
    golden = parity["dpo.sft_term"]
    got, _ = drive_pairs(golden, drive, make_batch, "rpo", nll_reduction="token_mean")
    golden.check(got.terms["loss/nll"], golden.expected["loss"], rtol=1e-6)  # counts are float32
    both = drive_pairs(golden, drive, make_batch, "rpo", nll_reduction="token_mean")[1]
    without = drive_pairs(golden, drive, make_batch, "dpo")[1]
    golden.check(both - without, golden.expected["grad"]["per_token_logps"], rtol=1e-7)


def test_peer_03_ipo_has_one_definition_and_the_other_by_name(parity, drive, make_batch):
    """Of three conventions the default is the paper's sum; tau is never left out of the target."""
    golden = parity["dpo.ipo_sum"]
    by_default, _ = drive_pairs(golden, drive, make_batch, "ipo")
    by_name, _ = drive_pairs(golden, drive, make_batch, "ipo", reduction="token_mean")
    golden.check(by_default.loss, golden.expected["loss"])
    golden.check(by_name.loss, parity["dpo.ipo_token_mean"].expected["loss"])
    assert abs(by_default.loss - by_name.loss) > 1
    stricter, _ = drive_pairs(golden, drive, make_batch, "ipo", tau=0.5)
    residuals = [got.terms["rewards/residual"] for got in (by_default, stricter)]
    assert residuals[1] - residuals[0] == pytest.approx(1 / (2 * 0.1) - 1 / (2 * 0.5))


SUMMED = [
    f for f in FAMILY if f[1] in ("robust_dpo", "hinge_dpo", "exo", "nca", "bco", "apo", "discopop", "ld_dpo")
]


@pytest.mark.parametrize(("id", "name", "options"), SUMMED, ids=[f[0] for f in SUMMED])
def test_peer_34_metrics(parity, drive, make_batch, id, name, options):
    golden = parity[id]
    got, _ = drive_pairs(golden, drive, make_batch, name, **options)
    names = {
        "rewards/chosen": "rewards/chosen",
        "rewards/rejected": "rewards/rejected",
        "rewards/margin": "rewards/margins",
        "rewards/accuracy": "rewards/accuracies",
    }
    for ours, theirs in names.items():
        golden.check(got.terms[ours], golden.expected["metrics"][theirs], rtol=1e-6)


def test_aot_is_one_number_however_the_batch_is_split(parity, make_batch):
    """TRL sorts within a forward pass; here the whole batch's golden gradient comes out of any micro-batches."""
    for id, variant in (("dpo.aot", "paired"), ("dpo.aot_unpaired", "unpaired")):
        golden = parity[id]
        aot = plugins.load("algorithms", "aot").ALGORITHM
        config = aot.config(variant=variant, label_smoothing=0.1)
        leaf = golden.inputs["per_token_logps"].clone().requires_grad_()
        batch = make_batch(
            golden.inputs["completion_mask"][:, 1:], paired=True, old_logprobs=leaf.detach(),
            ref_logprobs=golden.inputs["ref_per_token_logps"], uids=tuple(str(i) for i in range(len(leaf))),
        )  # fmt: skip
        batch = aot.credit(batch, config)
        count, width = batch.count(), leaf.shape[1]
        parts = list(batch.split(max_tokens=2 * width + 2))
        assert len(parts) == len(leaf) // 2
        for part in parts:
            rows = torch.tensor([int(uid) for uid in part.uids])
            terms = aot.loss(Outputs(leaf[rows, : part.mask.shape[1]]), part, config)
            sum(t.weight * t.total / count[t.unit] for t in terms).backward()
        golden.check(leaf.grad, golden.expected["grad"]["per_token_logps"])


def test_equal_ranks_is_the_cheapest_matching():
    values, others = torch.tensor([3.0, -1.0, 2.0]), torch.tensor([0.5, 7.0, -4.0])
    assert equal_ranks(values, others).tolist() == [1, 2, 0]


def contrast(golden, make_batch, drive, beta):
    """Return the fixture's rows in pairs: the gradient of DPO, and of each group of two under PPO's objective."""
    logps, mask = golden.inputs["per_token_logps"], golden.inputs["completion_mask"]
    reference = golden.inputs.get("ref_per_token_logps", logps)
    order = torch.tensor([0, 2, 4, 1, 3, 5])  # rows alternate right, wrong; a paired batch has them in halves
    pairs = make_batch(mask[order], paired=True, ref_logprobs=reference[order])
    grad = torch.zeros_like(logps)
    grad[order] = drive("dpo", pairs, {"beta": beta}, logprobs=logps[order]).grad["logprobs"]
    return grad


def group_gradient(golden, make_batch, drive, name):
    mask = golden.inputs["completion_mask"]
    sign = 2 * golden.inputs["rewards"] - 1
    advantages = (golden.params["advantage"] * sign)[:, None].expand_as(mask)
    batch = make_batch(mask, advantages=advantages, groups=torch.arange(len(mask)) // 2)
    return drive(name, batch, logprobs=golden.inputs["per_token_logps"]).grad["logprobs"]


def test_a_group_of_two_at_the_reference_is_a_preference_pair(parity, make_batch, drive):
    """Three exact statements, while the policy is the reference, nothing is clipped and there is no KL.

    Summed over tokens with a constant norm N: A / (N beta) times DPO. Mean over each completion's tokens:
    A / beta times length-normalised DPO. Mean over all tokens: 2 P A / (beta sum |y|) times DPO.
    """
    golden = parity["two_grpo.at_reference"]
    beta, advantage = golden.params["beta"], golden.params["advantage"]
    mask, logps = golden.inputs["completion_mask"], golden.inputs["per_token_logps"]
    dpo = contrast(golden, make_batch, drive, beta)
    golden.check(advantage / (golden.params["N"] * beta) * dpo, golden.expected["grad_dr_grpo"], rtol=1e-7)
    order = torch.tensor([0, 2, 4, 1, 3, 5])
    pairs = make_batch(mask[order], paired=True, ref_logprobs=logps[order])
    ln_dpo = torch.zeros_like(logps)
    ln_dpo[order] = drive("ln_dpo", pairs, {"beta": beta}, logprobs=logps[order]).grad["logprobs"]
    golden.check(ln_dpo, golden.expected["grad_ln_dpo"], rtol=1e-7)
    grpo = group_gradient(golden, make_batch, drive, "grpo")
    torch.testing.assert_close(grpo, advantage / beta * ln_dpo, rtol=1e-6, atol=0)
    factor = len(mask) * advantage / (beta * mask.sum())
    token_mean = group_gradient(golden, make_batch, drive, "dapo")
    torch.testing.assert_close(token_mean, factor * dpo, rtol=1e-6, atol=0)


def test_away_from_the_reference_it_is_one_pair_by_pair_only(parity, make_batch, drive):
    """DPO weighs a pair by 2 sigmoid(-beta d), a group of two weighs all alike: no factor fits a batch."""
    golden = parity["two_grpo.away_from_reference"]
    beta, norm, advantage = (golden.params[k] for k in ("beta", "N", "advantage"))
    dpo = contrast(golden, make_batch, drive, beta)
    golden.check(dpo, golden.expected["grad_dpo"], rtol=1e-7)
    inputs = golden.inputs
    moved = ((inputs["per_token_logps"] - inputs["ref_per_token_logps"]) * inputs["completion_mask"]).sum(-1)
    margin = moved[0::2] - moved[1::2]
    factor = advantage / (norm * beta * 2 * torch.sigmoid(-beta * margin))
    golden.check(factor, golden.expected["per_pair_factor"], rtol=1e-7)
    golden.check(factor.repeat_interleave(2)[:, None] * dpo, golden.expected["grad_dr_grpo"], rtol=1e-7)
    grpo, mask = group_gradient(golden, make_batch, drive, "dapo"), inputs["completion_mask"].bool()
    ratios = (grpo / dpo)[mask]
    assert ratios.max() / ratios.min() > 1.05


def test_a_group_of_binary_rewards_contrasts_right_with_wrong(parity):
    """(1/G) sum A_i x_i = sqrt(p (1 - p)) (mean of the right - mean of the wrong), p the share that is right."""
    golden = parity["two_grpo.binary_group_identity"]
    x, size = golden.inputs["x"], golden.params["G"]
    bessel = (size / (size - 1)) ** 0.5  # our standard deviation has Bessel's correction, the fixture's not
    for row in golden.expected["rows"]:
        rewards = (torch.arange(size) < row["k"]).double()
        advantages = bessel * group_advantages(rewards, torch.zeros(size, dtype=torch.long), eps=0.0)
        golden.check(advantages[0], row["adv_correct"])
        golden.check(advantages[-1], row["adv_wrong"])
        golden.check((advantages * x).mean(), row["weighted_mean"])
        share = row["k"] / size
        right, wrong = x[: row["k"]].mean(), x[row["k"] :].mean()
        golden.check((share * (1 - share)) ** 0.5 * (right - wrong), row["weighted_mean"])


def test_cut_pairs_are_the_start_of_each_side_and_chosen_rows_come_first():
    """As TRL's keep_start, with its one limit for prompt and completion given as a limit of the completion."""
    fixtures = json.loads(Path(__file__).with_name("parity.json").read_text(encoding="utf-8"))["fixtures"]
    golden = next(f for f in fixtures if f["id"] == "dpo.collate_keep_start")
    pairs = [cut_pair(row, golden["params"]["max_length"]) for row in golden["inputs"]["examples"]]
    batch = batch_of_pairs(pairs)
    for row, (ids, mask) in enumerate(
        zip(golden["expected"]["input_ids"], golden["expected"]["completion_mask"], strict=True)
    ):
        first, length = len(batch.prompts[row]), int(batch.lengths[row])
        assert [*batch.prompts[row].tolist(), *batch.completions[row, :length].tolist()] == ids[
            : first + length
        ]
        assert not any(ids[first + length :])
        assert [0] * first + batch.mask[row, :length].int().tolist() == mask[: first + length]
        assert not any(mask[first + length :])
        assert not batch.mask[row, length:].any()


def cut_pair(row, max_length):
    data = Data(train="t", max_completion_tokens=max_length - len(row["prompt_ids"]), overlong="truncate")
    sides = [
        Row("r", tuple(row["prompt_ids"]), tuple(ids), (True,) * len(ids))
        for ids in (row["chosen_ids"], row["rejected_ids"])
    ]
    return Pair("r", *fit_together(sides, data, "row 1", Counter()))
