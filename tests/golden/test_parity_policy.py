"""The critic-free online methods against numbers from elsewhere: value, gradient, advantages, weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from truing import plugins
from truing.algorithms._policy import policy_terms
from truing.algorithms.cispo import cispo_loss
from truing.math import advantages, ratios, reduce
from truing.types import Outputs


def method(name):
    return plugins.load("algorithms", name).ALGORITHM


def groups_of_four(rows):
    return torch.arange(rows) // 4


def drive_policy(golden, drive, make_batch, name, options, **fields):
    inputs = golden.inputs
    mask = inputs["completion_mask"]
    wide = inputs["advantages"][:, None].expand_as(mask)
    batch = make_batch(mask, advantages=wide, old_logprobs=inputs["old_per_token_logps"], **fields)
    return drive(name, batch, options, logprobs=inputs["per_token_logps"])


WIDE = {"clip_low": 0.2, "clip_high": 0.2}
POLICY = [
    ("grpo.dr_grpo", "dr_grpo", {"max_tokens": 16}),
    ("grpo.two_sided_delta", "dapo", {"clip_high": 0.2, "dual_clip": 1.3}),
    ("grpo.sapo", "sapo", {}),
    ("grpo.vespo", "vespo", {}),
    ("grpo.luspo", "luspo", WIDE),
    ("grpo.gmpo", "gmpo", {}),
    ("gspo.sequence", "gspo", {}),
    ("gspo.sequence_wide_clip", "gspo", WIDE),
    ("gspo.token_form", "gspo", WIDE),  # equal while the advantage is the same along a completion
    ("cispo.trl_eps5", "cispo", {}),
    ("cispo.trl_eps1.1", "cispo", {"ratio_max": 1.1}),
    ("cispo.verl_relative", "cispo", {"ratio_min": 0.8, "ratio_max": 1.2}),
    ("rloo.loss", "rloo", {"ratio_level": "product", "kl_coef": 0.0}),
]


@pytest.mark.parametrize(("id", "name", "options"), POLICY, ids=[p[0] for p in POLICY])
def test_value_and_gradient(parity, drive, make_batch, id, name, options):
    golden = parity[id]
    got = drive_policy(golden, drive, make_batch, name, options)
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["logprobs"], golden.expected["grad"]["per_token_logps"])
    for side in ("low", "high"):  # TRL's share is of sequences where the ratio is the sequence's
        expected = golden.expected.get("metrics", {}).get(f"clip_ratio/{side}_mean")
        if expected is not None and name in ("dr_grpo", "dapo"):
            golden.check(got.terms[f"policy/clip_fraction_{side}"], expected, rtol=1e-6)


def test_vespo_reports_the_mean_weight(parity, drive, make_batch):
    """TRL's mean is over sequences, ours over tokens; a row's weight is the same on each of its tokens."""
    golden = parity["grpo.vespo"]
    got = drive_policy(golden, drive, make_batch, "vespo", {})
    mask = golden.inputs["completion_mask"].bool()
    log_ratios = ratios.log_ratio(
        golden.inputs["per_token_logps"], golden.inputs["old_per_token_logps"], mask
    )
    good = golden.inputs["advantages"] > 0
    phi = plugins.load("algorithms", "vespo").phi(
        log_ratios.sum(-1, keepdim=True),
        k=torch.where(good, 2.0, 3.0).double()[:, None],
        decay=torch.where(good, 3.0, 2.0).double()[:, None],
    )
    golden.check(phi.mean(), golden.expected["metrics"]["vespo/phi_seq_mean"])
    golden.check((phi * mask).sum() / mask.sum(), got.terms["policy/phi_mean"], rtol=1e-6)


def test_peer_36_cispo_refuses_the_bound_that_is_a_trap(parity):
    """TRL's unset bound falls back to 0.2, absolute: the loss is 0.2 times REINFORCE."""
    golden, cispo = parity["cispo.trl_default_trap"], method("cispo")
    mask = golden.inputs["completion_mask"].bool()
    leaf = golden.inputs["per_token_logps"].clone().requires_grad_()
    ratio = ratios.log_ratio(leaf, golden.inputs["old_per_token_logps"], mask).exp()
    wide = golden.inputs["advantages"][:, None].expand_as(leaf)
    for_trap = {"ratio_min": 0.0, "ratio_max": golden.params["epsilon_high"]}
    loss = reduce.token_mean(cispo_loss(leaf, ratio, wide, **for_trap), mask)[0] / mask.sum()
    loss.backward()
    golden.check(loss.detach(), golden.expected["loss"])
    golden.check(leaf.grad, golden.expected["grad"]["per_token_logps"])
    reinforce = 0.2 * reduce.masked(-wide, mask) / mask.sum()
    torch.testing.assert_close(leaf.grad, reinforce)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        cispo.config(ratio_max=0.2)
    assert cispo.config().ratio_max == 5.0


@pytest.mark.parametrize(
    ("id", "cap"), [("tis.token_mask", 2.0), ("tis.sequence_truncate", 2.0), ("tis.sequence_mask", 3.0)]
)
def test_weights_that_correct_the_sampler(parity, id, cap):
    golden = parity[id]
    gap = golden.inputs["trainer_logps"] - golden.inputs["sampler_logps"]
    mask = torch.ones_like(gap, dtype=torch.bool)
    assert golden.params["clip_max"] == cap
    got = ratios.correction_weight(gap, mask, kind=golden.params["mode"], cap=cap)
    expected = torch.tensor(golden.expected["ratio"], dtype=torch.float64).expand_as(gap)
    golden.check(got, expected.tolist())


@pytest.mark.parametrize(("key", "cap"), [("uncapped", float("inf")), ("capped_mask", 1.3)])
def test_decoupled_ppo(parity, drive, make_batch, key, cap):
    golden = parity["async.decoupled_ppo"]
    inputs = golden.inputs
    batch = make_batch(
        inputs["mask"],
        advantages=inputs["advantages"][:, None].expand_as(inputs["mask"]),
        old_logprobs=inputs["proximal_logps"],
        sampler_logprobs=inputs["behaviour_logps"],
    )
    got = drive("decoupled_ppo", batch, {"mismatch_cap": cap}, logprobs=inputs["per_token_logps"])
    golden.check(got.loss, golden.expected[f"loss_{key}"])
    golden.check(got.grad["logprobs"], golden.expected[f"grad_{key}"])


def test_off_policy_mask(parity, drive, make_batch):
    golden = parity["grpo.off_policy_mask"]
    inputs, threshold = golden.inputs, golden.params["threshold"]
    mask, behaviour = inputs["completion_mask"].bool(), inputs["old_per_token_logps"]
    gap = ratios.log_ratio(behaviour, inputs["per_token_logps"], mask)
    golden.check(gap.sum(-1) / mask.sum(-1), golden.expected["mean_kl"])
    wide = inputs["advantages"][:, None].expand_as(gap)
    kept = ratios.near_policy(gap, wide, mask, max_gap=threshold)
    golden.check(kept[:, :1].double(), golden.expected["keep"])
    options = {"max_gap": threshold, "mismatch_cap": 0.0}
    grad = drive_policy(golden, drive, make_batch, "grpo", options, sampler_logprobs=behaviour).grad[
        "logprobs"
    ]
    plain = drive_policy(golden, drive, make_batch, "grpo", {}).grad["logprobs"]
    torch.testing.assert_close(grad, plain * torch.tensor(golden.expected["keep"]))
    assert plain[3].abs().max() > 0


def test_high_entropy_mask(parity, make_batch):
    golden = parity["grpo.high_entropy_mask"]
    mask = golden.inputs["mask"].bool()
    kept = advantages.high_entropy(golden.inputs["entropies"], mask, share=1 - golden.params["threshold"])
    golden.check(kept.double(), golden.expected["mask"])
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0]).double()
    batch = make_batch(
        mask, rewards=rewards, groups=torch.zeros(4, dtype=torch.long), old_entropy=golden.inputs["entropies"]
    )
    dapo = method("dapo")
    credited = dapo.credit(batch, dapo.config(high_entropy_share=0.2))
    assert torch.equal(credited.advantages != 0, kept)
    assert torch.equal(credited.mask, mask)  # the token count that divides stays that of all tokens


def credited(name, make_batch, mask, options, **fields):
    algorithm = method(name)
    return algorithm.credit(make_batch(mask, **fields), algorithm.config(**options))


@pytest.mark.parametrize(("id", "options"), [("adv.rloo", {}), ("adv.rloo_kl_in_reward", {"kl_coef": 0.05})])
def test_rloo_advantages(parity, make_batch, id, options):
    golden = parity[id]
    rewards = golden.inputs["rewards"]
    kl = golden.inputs.get("per_token_k1", torch.zeros(len(rewards), 3).double())
    got = credited(
        "rloo", make_batch, torch.ones_like(kl), {"kl_coef": 0.0, **options}, rewards=rewards,
        groups=groups_of_four(len(rewards)), old_logprobs=kl, ref_logprobs=torch.zeros_like(kl),
    )  # fmt: skip
    golden.check(got.advantages, [[a] * 3 for a in golden.expected["advantages"]])


def test_rloo_normalised(parity, make_batch):
    """TRL adds 1e-4 to the standard deviation and we 1e-6: exact with theirs, near in the method."""
    golden = parity["adv.rloo_normalised"]
    rewards = golden.inputs["rewards"]
    raw = advantages.leave_one_out(rewards, groups_of_four(len(rewards)))
    every = torch.ones(len(rewards), dtype=torch.bool)
    golden.check(advantages.standardised(raw, every, eps=1e-4), golden.expected["advantages"])
    got = credited(
        "rloo", make_batch, torch.ones(len(rewards), 1), {"kl_coef": 0.0, "normalize": True},
        rewards=rewards, groups=groups_of_four(len(rewards)),
    )  # fmt: skip
    golden.check(got.advantages[:, 0], golden.expected["advantages"], rtol=1e-3)


def test_reinforce_pp_advantages(parity, make_batch):
    golden = parity["adv.reinforce_pp"]
    kl, mask = golden.inputs["per_token_k1"], golden.inputs["mask"].bool()
    got = credited(
        "reinforce_pp", make_batch, mask, {"kl_coef": golden.params["kl_coef"]},
        rewards=golden.inputs["score"], old_logprobs=kl, ref_logprobs=torch.zeros_like(kl),
    )  # fmt: skip
    golden.check(got.returns, golden.expected["returns"])
    golden.check(got.advantages, golden.expected["advantages_ddof0"], rtol=1e-7)  # eps 1e-8 of the variance
    verl = advantages.whiten(got.returns, mask)
    golden.check(verl, golden.expected["advantages_ddof1"], rtol=1e-7)


def test_reinforce_pp_baseline_advantages(parity, make_batch):
    golden = parity["adv.reinforce_pp_baseline"]
    rewards, lengths = golden.inputs["rewards"], golden.inputs["lengths"].long()
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    got = credited("reinforce_pp_baseline", make_batch, mask, {}, rewards=rewards, groups=groups_of_four(8))
    golden.check(got.advantages[:, 0], golden.expected["advantages_token_weighted_ddof0"], rtol=1e-6)
    centred = advantages.group_advantages(rewards, groups_of_four(8), scale="none")
    golden.check(centred, golden.expected["centred"])
    by_row = advantages.whiten(centred[:, None], torch.ones(8, 1, dtype=torch.bool), correction=0)
    golden.check(by_row[:, 0], golden.expected["advantages_sequence_weighted_ddof0"], rtol=1e-6)


@pytest.mark.parametrize(("key", "kl_coef"), [("advantages", 0.0), ("verl_with_k1", 0.01)])
def test_remax_advantages(parity, make_batch, key, kl_coef):
    golden, kl = parity["adv.remax"], parity["adv.reinforce_pp"].inputs["per_token_k1"]
    got = credited(
        "remax", make_batch, golden.inputs["mask"].bool(), {"kl_coef": kl_coef}, rewards=golden.inputs["score"],
        baselines=golden.inputs["greedy_score"], old_logprobs=kl, ref_logprobs=torch.zeros_like(kl),
    )  # fmt: skip
    golden.check(got.advantages, golden.expected[key])


def test_several_rewards(parity):
    """The sum is what we train on; GDPO (arXiv:2601.05242) is made of the same two functions."""
    summed, apart = (
        parity["adv.multi_reward_sum_then_normalise"],
        parity["adv.multi_reward_normalise_then_sum"],
    )
    rewards, weights = summed.inputs["rewards_per_func"], torch.tensor(summed.params["weights"]).double()
    normal = partial(advantages.group_advantages, groups=groups_of_four(len(rewards)), eps=1e-4)
    summed.check(normal(rewards @ weights), summed.expected["advantages"])
    total = sum(w * normal(r) for w, r in zip(weights, apart.inputs["rewards_per_func"].T, strict=True))
    every = torch.ones(len(rewards), dtype=torch.bool)
    apart.check(advantages.standardised(total, every, eps=1e-4), apart.expected["advantages"])


def test_a_group_with_binary_rewards_contrasts_the_means(parity):
    """(1/G) sum A_i x_i = sqrt(p (1 - p)) (mean of the right x - mean of the wrong x), population std."""
    golden = parity["two_grpo.binary_group_identity"]
    x, size = golden.inputs["x"], golden.params["G"]
    for row in golden.expected["rows"]:
        rewards = (torch.arange(size) < row["k"]).double()
        bessel = advantages.group_advantages(rewards, torch.zeros(size, dtype=torch.long), eps=0.0)
        found = bessel * (size / (size - 1)) ** 0.5
        golden.check(found[0], row["adv_correct"])
        golden.check(found[-1], row["adv_wrong"])
        p = row["k"] / size
        contrast = (p * (1 - p)) ** 0.5 * (x[: row["k"]].mean() - x[row["k"] :].mean())
        golden.check((found * x).mean(), row["weighted_mean"])
        golden.check(contrast, row["weighted_mean"])


def test_a_group_of_two_away_from_the_reference_is_dpo_pair_by_pair(parity, drive, make_batch):
    golden = parity["two_grpo.away_from_reference"]
    logps, mask, ref = (
        golden.inputs[k] for k in ("per_token_logps", "completion_mask", "ref_per_token_logps")
    )
    sign = 2 * golden.inputs["rewards"] - 1
    wide = (golden.params["advantage"] * sign)[:, None].expand_as(mask)
    batch = make_batch(mask, advantages=wide, groups=torch.arange(6) // 2)
    grad = drive("dr_grpo", batch, {"max_tokens": golden.params["N"]}, logprobs=logps).grad["logprobs"]
    golden.check(grad, golden.expected["grad_dr_grpo"])
    order = torch.tensor([0, 2, 4, 1, 3, 5])  # chosen rows, then rejected ones
    pairs = make_batch(mask[order], paired=True, ref_logprobs=ref[order])
    dpo = drive("dpo", pairs, {"beta": golden.params["beta"]}, logprobs=logps[order]).grad["logprobs"]
    golden.check(dpo, torch.tensor(golden.expected["grad_dpo"])[order].tolist(), rtol=1e-6)
    factor = torch.tensor(golden.expected["per_pair_factor"]).double()
    torch.testing.assert_close(grad[order][:3], factor[:, None] * dpo[:3], rtol=1e-6, atol=1e-9)


def test_two_sided_delta_is_the_dual_clip(parity, make_batch):
    """INTELLECT-2 cuts the ratio at delta before the minimum; that is PPO's dual clip at c = delta."""
    golden = parity["grpo.two_sided_delta"]
    delta, inputs = golden.params["delta"], golden.inputs
    mask = inputs["completion_mask"].bool()
    wide = inputs["advantages"][:, None].expand_as(mask).double()
    batch = make_batch(mask, advantages=wide, old_logprobs=inputs["old_per_token_logps"])
    leaf = inputs["per_token_logps"].clone().requires_grad_()
    term = policy_terms(
        Outputs(leaf), batch, reduction=reduce.token_mean, clip_low=0.2, clip_high=0.2, dual_clip=delta
    )[0]
    ratio = ratios.log_ratio(leaf, inputs["old_per_token_logps"], mask).exp()
    by_hand = torch.maximum(-wide * ratio.clamp(max=delta), -wide * ratio.clamp(0.8, 1.2))[mask].sum()
    torch.testing.assert_close(term.total, by_hand)
    ours, theirs = (torch.autograd.grad(x, leaf, retain_graph=True)[0] for x in (term.total, by_hand))
    torch.testing.assert_close(ours, theirs)
