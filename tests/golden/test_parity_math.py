"""The functions of truing.math against numbers from elsewhere."""

from __future__ import annotations

import pytest
import torch

from truing.math import advantages, kl, ratios, reduce


def groups_of_four(rewards):
    return torch.arange(len(rewards)) // 4


def test_reductions(parity):
    golden = parity["agg.loss_modes"]
    loss, mask = golden.inputs["token_loss"], golden.inputs["mask"].bool()
    prompts = golden.inputs["prompt_index"].long()
    group_tokens = reduce.group_totals(mask.sum(-1).double(), prompts)
    count = {"token": mask.sum(), "sequence": len(mask), "prompt": 2}
    found = {
        "token-mean": reduce.token_mean(loss, mask),
        "seq-mean-token-mean": reduce.seq_mean_token_mean(loss, mask),
        "seq-mean-token-sum": reduce.seq_mean_token_sum(loss, mask),
        "seq-mean-token-sum-norm": reduce.seq_mean_token_sum_norm(
            loss, mask, norm=float(golden.params["constant"])
        ),
        "prompt-mean-token-mean": reduce.prompt_mean_token_mean(loss, mask, group_tokens),
    }
    assert found.keys() == golden.expected.keys()
    for name, (total, unit) in found.items():
        golden.check(total / count[unit], golden.expected[name])


@pytest.mark.parametrize(
    ("id", "scale"),
    [
        ("adv.grpo_scale_group", "group"),
        ("adv.grpo_scale_none", "none"),
        ("adv.grpo_scale_batch", "batch"),
        ("adv.unscorable_sample", "group"),
    ],
)
def test_group_advantages(parity, id, scale):
    golden = parity[id]
    rewards = golden.inputs["rewards"]
    got = advantages.group_advantages(rewards, groups_of_four(rewards), scale=scale, eps=1e-4)
    golden.check(got, golden.expected["advantages"])


def test_group_advantages_with_our_eps(parity):
    golden = parity["adv.grpo_eps_variants"]
    rewards = golden.inputs["rewards"]
    got = advantages.group_advantages(rewards, groups_of_four(rewards))
    golden.check(got, golden.expected["ddof1_eps1e_6"])


def test_group_of_two_keeps_only_the_sign(parity):
    golden = parity["two_grpo.advantage"]
    rewards = golden.inputs["reward_pairs"].flatten()
    got = advantages.group_advantages(rewards, torch.arange(len(rewards)) // 2, eps=0.0).view(-1, 2)
    golden.check(got.nan_to_num(), golden.expected["bessel_std_eps0"])


def test_std_ignores_what_was_not_scored(parity):
    golden = parity["core.nanstd"]
    got = advantages.group_std(golden.inputs["x"], torch.zeros(4, dtype=torch.long))
    golden.check(got[0], golden.expected["std"])


def test_dynamic_sampling_keeps_groups_with_spread(parity):
    golden = parity["dapo.dynamic_sampling"]
    correct = golden.inputs["correct"].flatten()
    keep = advantages.has_spread(correct, groups_of_four(correct)).view(-1, 4)[:, 0]
    assert keep.tolist() == [bool(k) for k in golden.expected["keep"]]


def test_soft_overlong_penalty(parity):
    golden = parity["dapo.soft_overlong"]
    got = advantages.soft_overlong_penalty(
        golden.inputs["length"].long(), max_tokens=golden.params["L_max"], cache=golden.params["L_cache"]
    )
    golden.check(got.double(), golden.expected["penalty"], rtol=1e-6)


@pytest.mark.parametrize("id", ["ppo.gae_g1_l0.95", "ppo.gae_g1_l1", "ppo.gae_g0.99_l0.9"])
def test_gae(parity, id):
    golden = parity[id]
    inputs = golden.inputs
    got, returns = advantages.gae(
        inputs["token_reward"], inputs["values"], inputs["mask"].bool(),
        discount=golden.params["gamma"], gae_lambda=golden.params["lambda"],
    )  # fmt: skip
    golden.check(got, golden.expected["advantages"])
    golden.check(returns, golden.expected["returns"])


def test_gae_jumps_over_what_a_tool_said(parity):
    golden = parity["ppo.gae_skips_observation_tokens"]
    inputs = golden.inputs
    got, _ = advantages.gae(
        inputs["token_reward"], inputs["values"], inputs["mask"].bool(), discount=1.0, gae_lambda=0.95
    )
    golden.check(got, golden.expected["advantages"])


@pytest.mark.parametrize(
    ("key", "options"),
    [("ddof0", {"correction": 0}), ("ddof1", {}), ("ddof1_keep_mean", {"keep_mean": True})],
)
def test_whiten(parity, key, options):
    golden = parity["ppo.whiten"]
    got = advantages.whiten(golden.inputs["x"], golden.inputs["mask"].bool(), **options)
    golden.check(got, golden.expected[key])


def test_dual_clip(parity):
    golden = parity["ppo.dual_clip"]
    ratio, advantage = golden.inputs["ratio"], golden.inputs["advantage"]
    sides = {"clip_low": 0.2, "clip_high": 0.2}
    golden.check(ratios.clipped_surrogate(ratio, advantage, **sides), golden.expected["single_clip"])
    dual = ratios.clipped_surrogate(ratio, advantage, **sides, dual_clip=golden.params["c"])
    golden.check(dual, golden.expected["dual_clip"])
    low, high = ratios.clipped_tokens(ratio, advantage, **sides)
    golden.check((low | high).double().mean(), golden.expected["clipfrac"])


def test_truncated_weight(parity):
    golden = parity["tis.token_truncate"]
    gap = golden.inputs["trainer_logps"] - golden.inputs["sampler_logps"]
    golden.check(ratios.truncated_weight(gap, cap=golden.params["clip_max"]), golden.expected["ratio"])


def test_constant_norm(parity):
    golden = parity["grpo.dr_grpo"]
    inputs = golden.inputs
    mask = inputs["completion_mask"].bool()
    leaf = inputs["per_token_logps"].clone().requires_grad_()
    ratio = ratios.token_ratio(ratios.log_ratio(leaf, inputs["old_per_token_logps"], mask))
    per_token = ratios.clipped_surrogate(
        ratio, inputs["advantages"][:, None].expand_as(ratio), clip_low=0.2, clip_high=0.2
    )
    norm = golden.params["max_completion_length"]
    loss = reduce.seq_mean_token_sum_norm(per_token, mask, norm=float(norm))[0] / len(mask)
    loss.backward()
    golden.check(loss.detach(), golden.expected["loss"])
    golden.check(leaf.grad, golden.expected["grad"]["per_token_logps"])


@pytest.mark.parametrize(
    ("id", "low", "high"), [("gspo.sequence", 3e-4, 4e-4), ("gspo.sequence_wide_clip", 0.2, 0.2)]
)
def test_sequence_ratio(parity, id, low, high):
    golden = parity[id]
    inputs = golden.inputs
    mask = inputs["completion_mask"].bool()
    leaf = inputs["per_token_logps"].clone().requires_grad_()
    ratio = ratios.sequence_ratio(ratios.log_ratio(leaf, inputs["old_per_token_logps"], mask), mask)
    per_token = ratios.clipped_surrogate(
        ratio, inputs["advantages"][:, None].expand_as(ratio), clip_low=low, clip_high=high
    )
    loss = reduce.seq_mean_token_mean(per_token, mask)[0] / len(mask)
    loss.backward()
    golden.check(loss.detach(), golden.expected["loss"])
    golden.check(leaf.grad, golden.expected["grad"]["per_token_logps"])


def test_adaptive_kl_coef(parity):
    golden = parity["ppo.adaptive_kl"]
    p, coef = golden.params, golden.params["init"]
    for seen, expected in zip(golden.inputs["sequence_kl"].tolist(), golden.expected["coef"], strict=True):
        coef = kl.adaptive_kl_coef(
            coef, seen, target=p["target"], num_sequences=float(p["n_steps"]), horizon=float(p["horizon"])
        )
        golden.check(coef, expected)


def test_kl_estimators_mean_and_variance(parity):
    golden = parity["kl.estimators"]
    probs = golden.inputs["policy_logits"].softmax(0)
    x = probs.log() - golden.inputs["ref_logprobs"]
    for name, estimator in {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3}.items():
        mean = (probs * estimator(x)).sum()
        golden.check(mean, golden.expected["mean"][name])
        golden.check((probs * (estimator(x) - mean) ** 2).sum(), golden.expected["variance"][name])


@pytest.mark.parametrize(
    ("estimator", "direction"),
    [("k2", "grad_reverse_kl"), ("k3", "grad_forward_kl"), ("k3_ratio", "grad_reverse_kl")],
)
def test_peer_37_gradient_of_a_kl_loss(parity, estimator, direction):
    """The expected gradient, by enumeration of all outcomes, of what is added to a loss."""
    golden = parity["kl.estimators"]
    logits = golden.inputs["policy_logits"].clone().requires_grad_()
    logprobs = logits.log_softmax(0)
    drawn = logprobs.detach()
    per_outcome = kl.kl_loss(
        logprobs - golden.inputs["ref_logprobs"],
        estimator=estimator,
        ratio=ratios.token_ratio(logprobs - drawn),
    )
    (drawn.exp() * per_outcome).sum().backward()
    golden.check(logits.grad, golden.expected[direction], rtol=1e-8)


def test_peer_37_gradient_of_k1_in_the_reward(parity):
    golden = parity["kl.estimators"]
    logits = golden.inputs["policy_logits"].clone().requires_grad_()
    logprobs = logits.log_softmax(0)
    drawn = logprobs.detach()
    reward = -kl.k1(drawn - golden.inputs["ref_logprobs"])
    (drawn.exp() * -reward * logprobs).sum().backward()
    golden.check(logits.grad, golden.expected["grad_reverse_kl"], rtol=1e-8)


def test_peer_37_k1_as_a_loss_does_nothing(parity):
    golden = parity["kl.estimators"]
    logits = golden.inputs["policy_logits"].clone().requires_grad_()
    logprobs = logits.log_softmax(0)
    (logprobs.detach().exp() * kl.k1(logprobs)).sum().backward()
    assert logits.grad.abs().max() < 1e-15
