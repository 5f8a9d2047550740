"""Each method's record against numbers from elsewhere: value, gradient and metrics."""

from __future__ import annotations

import pytest
import torch

from truing import plugins
from truing.algorithms._policy import policy_terms
from truing.math import reduce
from truing.math.kl import k2
from truing.types import Outputs


def token_logprobs(golden):
    """Return log-probs [B, C] of the shifted targets, their mask, and the logits with gradient."""
    logits = golden.inputs["logits"].clone().requires_grad_()
    labels = golden.inputs["labels"].long()[:, 1:]
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return logprobs, labels != -100, logits


@pytest.mark.parametrize(
    ("id", "reduction"), [("sft.token_mean", "token_mean"), ("sft.sequence_mean", "seq_mean_token_mean")]
)
def test_sft(parity, drive, make_batch, id, reduction):
    golden = parity[id]
    logprobs, mask, logits = token_logprobs(golden)
    got = drive("sft", make_batch(mask), {"reduction": reduction}, logprobs=logprobs.detach())
    logprobs.backward(got.grad["logprobs"])
    golden.check(got.loss, golden.expected["loss"])
    golden.check(logits.grad, golden.expected["grad"]["logits"])


def test_sft_divides_by_the_count_of_the_whole_step(parity):
    golden = parity["sft.token_mean_global_denominator"]
    logprobs, mask, _ = token_logprobs(golden)
    total, unit = reduce.token_mean(-logprobs, mask)
    assert unit == "token"
    golden.check(total.detach() / golden.params["num_items_in_batch"], golden.expected["loss"])


@pytest.mark.parametrize("rows_per_micro_batch", [1, 2, 3])
def test_peer_35_sft_micro_batches_of_unequal_length(parity, make_batch, rows_per_micro_batch):
    golden = parity["sft.grad_accum_equivalence"]
    logprobs, mask, _ = token_logprobs(golden)
    batch, sft = make_batch(mask), plugins.load("algorithms", "sft").ALGORITHM
    count, loss = batch.count(), torch.zeros((), dtype=torch.float64)
    for index in torch.arange(len(batch)).split(rows_per_micro_batch):
        for term in sft.loss(Outputs(logprobs[index]), batch.rows(index), sft.config()):
            loss = loss + term.weight * term.total / count[term.unit]
    golden.check(loss.detach(), golden.expected["correct_loss"])


@pytest.mark.parametrize("id", ["rm.bt", "rm.bt_margin", "rm.bt_centered", "rm.bt_margin_centered"])
def test_reward_model(parity, drive, make_batch, id):
    golden = parity[id]
    chosen, rejected = golden.inputs["chosen"], golden.inputs["rejected"]
    margins = golden.inputs["margin"].repeat(2) if golden.params["margin"] else None
    options = {
        "use_margin": golden.params["margin"],
        "centering_coef": golden.params["center_rewards_coefficient"] or 0.0,
    }
    batch = make_batch(torch.ones(2 * len(chosen), 1), paired=True, margins=margins)
    got = drive("reward_model", batch, options, scores=torch.cat([chosen, rejected]))
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["scores"], golden.expected["grad"]["chosen"] + golden.expected["grad"]["rejected"])
    golden.check(got.terms["rewards/accuracy"], golden.expected["metrics"]["accuracy"], rtol=1e-6)
    golden.check(got.terms["rewards/margin"], golden.expected["metrics"]["margin"], rtol=1e-6)


def drive_dpo(golden, drive, make_batch, **options):
    mask = golden.inputs["completion_mask"][:, 1:]
    batch = make_batch(mask, paired=True, ref_logprobs=golden.inputs["ref_per_token_logps"])
    return drive("dpo", batch, options, logprobs=golden.inputs["per_token_logps"])


@pytest.mark.parametrize(
    ("id", "label_smoothing"), [("dpo.sigmoid", 0.0), ("dpo.sigmoid_beta0.5", 0.0), ("dpo.cdpo", 0.1)]
)
def test_dpo(parity, drive, make_batch, id, label_smoothing):
    golden = parity[id]
    got = drive_dpo(golden, drive, make_batch, beta=golden.params["beta"], label_smoothing=label_smoothing)
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["logprobs"], golden.expected["grad"]["per_token_logps"])


def test_peer_34_dpo_metrics(parity, drive, make_batch):
    golden = parity["dpo.sigmoid"]
    got, expected = drive_dpo(golden, drive, make_batch), golden.expected["metrics"]
    names = {
        "rewards/chosen": "rewards/chosen",
        "rewards/rejected": "rewards/rejected",
        "rewards/margin": "rewards/margins",
        "rewards/accuracy": "rewards/accuracies",
        "logprobs/chosen": "logps/chosen",
        "logprobs/rejected": "logps/rejected",
    }
    for ours, theirs in names.items():
        golden.check(got.terms[ours], expected[theirs], rtol=1e-6)


def test_peer_02_dpo_honours_label_smoothing(parity, drive, make_batch):
    """TRL ignores it for the sigmoid loss; the fixture holds the number that a library gives that does."""
    golden = parity["dpo.sigmoid_label_smoothing_ignored"]
    ignored = drive_dpo(golden, drive, make_batch, label_smoothing=0.0)
    honoured = drive_dpo(golden, drive, make_batch, label_smoothing=golden.params["label_smoothing"])
    golden.check(ignored.loss, golden.expected["loss"])
    assert abs(honoured.loss - golden.expected["loss"]) > 0.01


def test_dpo_gradient_weighs_a_pair_by_its_error(parity, drive, make_batch):
    golden = parity["dpo.gradient_identity"]
    grad = drive_dpo(golden, drive, make_batch).grad["logprobs"]
    mask, num_pairs = golden.inputs["completion_mask"][:, 1:].bool(), 3
    per_row = torch.stack([g[m][0] for g, m in zip(grad, mask, strict=True)])
    golden.check(per_row[:num_pairs], golden.expected["grad_chosen_token"])
    golden.check(per_row[num_pairs:], golden.expected["grad_rejected_token"])


def drive_policy(golden, drive, make_batch, name, **options):
    inputs = golden.inputs
    mask = inputs["completion_mask"] * inputs.get("tool_mask", 1.0)
    old = inputs.get("old_per_token_logps")
    weight = inputs.get("importance_sampling_ratio")
    batch = make_batch(
        mask,
        advantages=inputs["advantages"][:, None].expand_as(mask),
        old_logprobs=old,
        ref_logprobs=inputs.get("ref_per_token_logps"),
        sampler_logprobs=None if weight is None else old - weight.log(),
    )
    return drive(name, batch, options, logprobs=inputs["per_token_logps"])


POLICY = [
    ("grpo.grpo", "grpo", {}),
    ("grpo.on_policy", "grpo", {}),
    ("grpo.tool_mask", "grpo", {}),
    ("grpo.fully_masked_row", "grpo", {}),
    ("grpo.kl_plain_k3", "grpo", {"kl_coef": 0.04}),
    ("grpo.kl_bias_corrected", "grpo", {"kl_coef": 0.04, "kl_estimator": "k3_ratio"}),
    ("grpo.bnpo", "dapo", {"clip_high": 0.2}),
    ("grpo.dapo_clip_higher", "dapo", {}),
    ("grpo.token_is_weight", "dapo", {"clip_high": 0.2}),
]


@pytest.mark.parametrize(("id", "name", "options"), POLICY, ids=[p[0] for p in POLICY])
def test_grpo_and_dapo(parity, drive, make_batch, id, name, options):
    golden = parity[id]
    got = drive_policy(golden, drive, make_batch, name, **options)
    golden.check(got.loss, golden.expected["loss"])
    if "grad" in golden.expected:
        golden.check(got.grad["logprobs"], golden.expected["grad"]["per_token_logps"])
    metrics = golden.expected.get("metrics", {})
    for side in ("low", "high") if metrics else ():
        golden.check(got.terms[f"policy/clip_fraction_{side}"], metrics[f"clip_ratio/{side}_mean"], rtol=1e-6)


def test_entropy_bonus(parity, make_batch):
    golden = parity["grpo.entropy_bonus"]
    inputs, leaf = golden.inputs, golden.inputs["per_token_logps"].clone().requires_grad_()
    batch = make_batch(
        inputs["completion_mask"],
        advantages=inputs["advantages"][:, None].expand_as(leaf),
        old_logprobs=inputs["old_per_token_logps"],
    )
    outputs = Outputs(leaf, entropy=inputs["entropies"])
    terms = policy_terms(
        outputs, batch, reduction=reduce.token_mean, clip_low=0.2, clip_high=0.2, entropy_coef=0.01
    )
    loss, count = torch.zeros((), dtype=torch.float64), batch.count()
    for term in terms:
        loss = loss + term.weight * term.total / count[term.unit]
    loss.backward()
    golden.check(loss.detach(), golden.expected["loss"])
    golden.check(leaf.grad, golden.expected["grad"]["per_token_logps"])


def test_group_of_two_at_the_reference_is_dpo(parity, drive, make_batch):
    golden = parity["two_grpo.at_reference"]
    logps, mask = golden.inputs["per_token_logps"], golden.inputs["completion_mask"]
    sign = 2 * golden.inputs["rewards"] - 1
    advantages = (golden.params["advantage"] * sign)[:, None].expand_as(mask)
    batch = make_batch(mask, advantages=advantages, groups=torch.arange(6) // 2)
    golden.check(drive("grpo", batch, logprobs=logps).grad["logprobs"], golden.expected["grad_grpo"])
    golden.check(drive("dapo", batch, logprobs=logps).grad["logprobs"], golden.expected["grad_token_mean"])
    order = torch.tensor([0, 2, 4, 1, 3, 5])  # chosen rows, then rejected ones
    pairs = make_batch(mask[order], paired=True, ref_logprobs=logps[order])
    grad = drive("dpo", pairs, {"beta": golden.params["beta"]}, logprobs=logps[order]).grad["logprobs"]
    golden.check(grad, torch.tensor(golden.expected["grad_dpo"])[order].tolist(), rtol=1e-6)


def drive_ppo(golden, drive, make_batch, options, **fields):
    mask = golden.inputs["mask"]
    zeros = torch.zeros_like(mask)
    fields = {"advantages": zeros, "returns": zeros, "old_values": zeros, "old_logprobs": zeros, **fields}
    outputs = {"logprobs": fields.pop("logprobs", zeros), "values": fields.pop("values", zeros)}
    return drive("ppo", make_batch(mask, **fields), {"kl_coef": 0.0, **options}, **outputs)


def test_ppo_policy_loss(parity, drive, make_batch):
    golden = parity["ppo.policy_loss"]
    got = drive_ppo(
        golden, drive, make_batch, {}, logprobs=golden.inputs["logps"],
        old_logprobs=golden.inputs["old_logps"], advantages=golden.inputs["advantages"],
    )  # fmt: skip
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["logprobs"], golden.expected["grad"]["logps"])
    mask = golden.inputs["mask"].bool()
    half_square, _ = reduce.token_mean(k2(golden.inputs["logps"] - golden.inputs["old_logps"]), mask)
    golden.check(half_square / mask.sum(), golden.expected["approxkl_half_square"])
    both = got.terms["policy/clip_fraction_low"] + got.terms["policy/clip_fraction_high"]
    golden.check(both, golden.expected["clipfrac"])


def test_ppo_value_loss(parity, drive, make_batch):
    golden = parity["ppo.value_clip"]
    fields = {k: golden.inputs[k] for k in ("values", "old_values", "returns")}
    got = drive_ppo(golden, drive, make_batch, {}, **fields)
    golden.check(got.loss, golden.expected["loss"])
    golden.check(got.grad["values"], golden.expected["grad"]["values"])
    golden.check(got.terms["value/clip_fraction"], golden.expected["clipfrac"])


def ppo_credit(shaped, make_batch, values, **options):
    """Run PPO's credit on the rows of the KL-shaped reward fixture."""
    batch = make_batch(
        shaped.inputs["mask"], rewards=shaped.inputs["score"], old_values=values,
        old_logprobs=shaped.inputs["logps"], ref_logprobs=shaped.inputs["ref_logps"],
    )  # fmt: skip
    ppo = plugins.load("algorithms", "ppo").ALGORITHM
    config = ppo.config(kl_coef=shaped.params["kl_coef"], whiten_advantages=False, **options)
    return ppo.credit(batch, config)


def test_peer_10_ppo_puts_the_score_on_the_last_trained_token(parity, make_batch):
    golden = parity["ppo.kl_shaped_reward"]
    values = torch.zeros_like(golden.inputs["mask"])
    credited = ppo_credit(golden, make_batch, values, discount=0.0, gae_lambda=0.0)
    golden.check(credited.advantages, golden.expected["token_reward"])  # without a future, A is the reward


@pytest.mark.parametrize("id", ["ppo.gae_g1_l0.95", "ppo.gae_g1_l1", "ppo.gae_g0.99_l0.9"])
def test_ppo_credit(parity, make_batch, id):
    golden = parity[id]
    credited = ppo_credit(
        parity["ppo.kl_shaped_reward"], make_batch, golden.inputs["values"],
        discount=golden.params["gamma"], gae_lambda=golden.params["lambda"],
    )  # fmt: skip
    golden.check(credited.advantages, golden.expected["advantages"])
    golden.check(credited.returns, golden.expected["returns"])


def test_ppo_adapts_its_coefficient(parity):
    golden = parity["ppo.adaptive_kl"]
    ppo = plugins.load("algorithms", "ppo").ALGORITHM
    p = golden.params
    config = ppo.config(
        kl_coef=p["init"], kl_target=p["target"], kl_horizon_steps=p["horizon"] / p["n_steps"]
    )
    for kl, expected in zip(golden.inputs["sequence_kl"].tolist(), golden.expected["coef"], strict=True):
        config = ppo.adapt(config, {"policy/ref_kl_per_sequence": kl})
        golden.check(config.kl_coef, expected)


@pytest.mark.parametrize(("id", "eps"), [("adv.unscorable_sample", 1e-4), ("adv.grpo_scale_group", 1e-4)])
def test_grpo_credit(parity, make_batch, id, eps):
    """The fixtures hold eps 1e-4 and ours is 1e-6: hence the loose tolerance; test_parity_math is exact."""
    golden = parity[id]
    rewards = golden.inputs["rewards"]
    batch = make_batch(torch.ones(len(rewards), 2), rewards=rewards, groups=torch.arange(len(rewards)) // 4)
    credited = plugins.load("algorithms", "grpo").ALGORITHM.credit(
        batch, plugins.config_class("algorithms", "grpo")()
    )
    golden.check(credited.advantages[:, 0], golden.expected["advantages"], rtol=10 * eps)
    assert torch.equal(credited.mask.all(-1), ~rewards.isnan())
