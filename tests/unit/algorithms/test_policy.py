"""What the online methods report and correct, beyond the contract of every method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from truing import plugins
from truing.types import Batch, Outputs

REINFORCE = ["reinforce", "remax"]  # no ratio in the loss, and nothing to clip
CLIPPED = [
    "dapo", "grpo", "ppo", "dr_grpo", "gspo", "luspo", "cispo", "gmpo", "rloo", "reinforce_pp",
    "reinforce_pp_baseline",
]  # fmt: skip
ONLINE = [*CLIPPED, "sapo", *REINFORCE]


def batch_of(rewards, *, width=3, group_size=2, **fields):
    rows = len(rewards)
    zeros = torch.zeros(rows, width)
    return Batch(
        prompts=tuple(torch.zeros(1, dtype=torch.long) for _ in range(rows)),
        completions=torch.zeros(rows, width, dtype=torch.long),
        lengths=torch.full((rows,), width),
        mask=fields.pop("mask", torch.ones(rows, width, dtype=torch.bool)),
        groups=torch.arange(rows) // group_size,
        rewards=torch.tensor(rewards),
        **{
            "ref_logprobs": zeros,
            "old_logprobs": zeros,
            "old_values": zeros,
            "baselines": zeros[:, 0],
            **fields,
        },
    )


def metrics_of(name, batch, logprobs, config=None):
    algorithm = plugins.load("algorithms", name).ALGORITHM
    config = config or algorithm.config()
    batch = algorithm.credit(batch, config)
    outputs = Outputs(logprobs, torch.ones_like(logprobs), torch.zeros_like(logprobs))
    count = batch.count()
    return {t.name: (t.total / count[t.unit]).item() for t in algorithm.loss(outputs, batch, config)}


@pytest.mark.parametrize("name", ONLINE)
@pytest.mark.parametrize("given", [True, False])
def test_peer_13_ratio_is_1_on_policy(name, given):
    logprobs = -torch.rand(4, 3)
    given = given or "old_logprobs" in plugins.load("algorithms", name).ALGORITHM.config().needs()
    batch = batch_of([1.0, 0.0, 0.0, 1.0], old_logprobs=logprobs.clone() if given else None)
    found = metrics_of(name, batch, logprobs)
    assert found["policy/ratio_mean"] == 1.0
    sides = ("clip_fraction_low", "clip_fraction_high") if name in CLIPPED else ()
    for metric in ("ratio_gap_mean", "approx_kl", *sides):
        assert found[f"policy/{metric}"] == 0.0


@pytest.mark.parametrize("name", ["dapo", "grpo"])
def test_peer_14_share_of_dead_groups(name):
    found = metrics_of(name, batch_of([0.1, 0.1, 0.1, 1.0, 0.5, 0.0], group_size=3), torch.zeros(6, 3))
    assert found["policy/dead_group_share"] == 0.5


@pytest.mark.parametrize("name", ONLINE)
def test_peer_16_an_unscored_row_is_not_trained(name):
    algorithm = plugins.load("algorithms", name).ALGORITHM
    batch = algorithm.credit(batch_of([1.0, float("nan"), 0.0, 1.0]), algorithm.config())
    assert batch.mask.any(-1).tolist() == [True, False, True, True]
    assert batch.advantages.isfinite().all() and (batch.advantages[1] == 0).all()


@pytest.mark.parametrize("name", ONLINE)
def test_peer_11_gap_between_sampler_and_learner_is_reported(name):
    sampler = torch.full((4, 3), -0.5)
    sampler[0, 0] = float("nan")  # the sampler did not say
    found = metrics_of(name, batch_of([1.0, 0.0, 0.0, 1.0], sampler_logprobs=sampler), torch.zeros(4, 3))
    assert found["mismatch/logprob_gap_mean"] == pytest.approx(0.5 * 11 / 12)
    assert found["mismatch/weight_mean"] == pytest.approx((11 * 1.648721 + 1) / 12)
    assert found["mismatch/kl"] > 0


@pytest.mark.parametrize("name", ONLINE)
def test_mismatch_cap_0_switches_the_weight_off(name):
    config = plugins.load("algorithms", name).ALGORITHM.config
    batch = batch_of([1.0, 0.0, 0.0, 1.0], sampler_logprobs=torch.full((4, 3), -0.5) * torch.rand(4, 3))
    logprobs = 0.1 * torch.rand(4, 3)
    weighted, plain = (metrics_of(name, batch, logprobs, config(mismatch_cap=cap)) for cap in (2.0, 0.0))
    without = metrics_of(name, batch_of([1.0, 0.0, 0.0, 1.0]), logprobs)
    assert plain["loss/policy"] == without["loss/policy"] != weighted["loss/policy"]
    assert "mismatch/weight_mean" not in plain


def test_reference_kl_is_a_sum_over_tokens_and_a_mean_over_sequences():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    batch = batch_of([1.0, 0.0], mask=mask, ref_logprobs=torch.full((2, 3), -0.5))
    assert metrics_of("ppo", batch, torch.zeros(2, 3))["policy/ref_kl_per_sequence"] == pytest.approx(1.0)


def ppo_scores(rewards, options, **fields):
    """Return what reaches the last token: with no future and no critic, the advantage is the reward."""
    ppo = plugins.load("algorithms", "ppo").ALGORITHM
    config = ppo.config(kl_coef=0.0, discount=0.0, whiten_advantages=False, **options)
    return ppo.credit(batch_of(rewards, **fields), config).advantages[:, -1].tolist()


def test_peer_10_missing_eos_penalty_follows_the_finish_reason_not_a_token():
    truncated = torch.tensor([True, False])
    assert ppo_scores([1.0, 1.0], {"missing_eos_penalty": 3.0}, truncated=truncated) == [-2.0, 1.0]
    with pytest.raises(ValueError, match="truncated"):
        ppo_scores([1.0, 1.0], {"missing_eos_penalty": 3.0})


def test_ppo_clips_scores_before_the_penalty():
    assert ppo_scores([99.0, -99.0], {}) == [10.0, -10.0]
    assert ppo_scores([99.0, -99.0], {"reward_clip": None}) == [99.0, -99.0]
    penalised = ppo_scores([99.0, -99.0], {"missing_eos_penalty": 1.0}, truncated=torch.tensor([True, True]))
    assert penalised == [9.0, -11.0]


def test_ppo_reports_what_explained_variance_needs():
    batch = batch_of([2.0, 0.0], width=1)
    found = metrics_of("ppo", batch, torch.zeros(2, 1))
    variance = found["value/return_square_mean"] - found["value/return_mean"] ** 2
    assert (found["value/error_square_mean"], variance) == (2.0, 1.0)


def test_peer_26_a_tie_is_half_a_win():
    reward_model = plugins.load("algorithms", "reward_model").ALGORITHM
    scores = torch.tensor([1.0, 2.0, 0.0, 1.0, 0.0, 1.0])
    batch = batch_of([0.0] * 6, paired=True)
    terms = reward_model.loss(Outputs(scores=scores), batch, reward_model.config())
    found = {t.name: t.total.item() / 3 for t in terms}
    assert found["rewards/accuracy"] == pytest.approx(0.5)  # a tie, a win and a loss


def test_dapo_takes_the_overlong_penalty_off_the_reward():
    dapo = plugins.load("algorithms", "dapo").ALGORITHM
    batch = batch_of([1.0, 1.0], width=4)
    batch = replace(batch, lengths=torch.tensor([2, 4]))
    credited = dapo.credit(batch, dapo.config(max_tokens=4, overlong_cache=2))
    assert credited.advantages[0, 0] > 0 > credited.advantages[1, 0]  # equally right, and one too long
    assert (dapo.credit(batch, dapo.config()).advantages == 0).all()


@pytest.mark.parametrize("target", [3.0, 12.0])
def test_ppo_raises_its_coefficient_above_the_target_and_lowers_it_below(target):
    ppo = plugins.load("algorithms", "ppo").ALGORITHM
    config = ppo.config(kl_coef=0.1, kl_target=target, kl_horizon_steps=10.0)
    adapted = ppo.adapt(config, {"policy/ref_kl_per_sequence": 6.0})
    assert adapted.kl_coef == pytest.approx(0.1 * (1.02 if target < 6 else 0.98))


@pytest.mark.parametrize("name", ONLINE)
def test_approx_kl_is_the_k3_of_the_policy_that_drew_the_tokens(name):
    found = metrics_of(name, batch_of([1.0, 0.0, 0.0, 1.0]), torch.full((4, 3), 0.5))
    assert found["policy/approx_kl"] == pytest.approx(1.6487213 - 1 - 0.5)  # rho - 1 - log rho


@pytest.mark.parametrize("kind", ["token_mask", "sequence_mask"])
def test_what_the_mask_drops_is_counted(kind):
    grpo = plugins.load("algorithms", "grpo").ALGORITHM
    sampler = torch.zeros(4, 3)
    sampler[0, 0] = -2.0  # the learner finds this token e^2 times as likely
    batch = batch_of([1.0, 0.0, 0.0, 1.0], sampler_logprobs=sampler)
    config = grpo.config(mismatch=kind, mismatch_cap=3.0)
    found = metrics_of("grpo", batch, torch.zeros(4, 3), config)
    dropped = (1 if kind == "token_mask" else 3) / 12
    assert found["mismatch/weight_bounded_share"] == pytest.approx(dropped)
    assert found["mismatch/weight_mean"] == pytest.approx(1 - dropped)


def test_decoupled_ppo_needs_to_know_who_drew():
    with pytest.raises(ValueError, match="sampler_logprobs"):
        metrics_of("decoupled_ppo", batch_of([1.0, 0.0, 0.0, 1.0]), torch.zeros(4, 3))


def test_far_completions_are_left_out_only_where_they_are_bad():
    grpo = plugins.load("algorithms", "grpo").ALGORITHM
    batch = batch_of([1.0, 0.0, 0.0, 1.0], sampler_logprobs=torch.zeros(4, 3))
    logprobs = torch.full((4, 3), -0.5)  # the policy has moved away by half a nat a token
    found = metrics_of("grpo", batch, logprobs, grpo.config(max_gap=0.4))
    assert found["mismatch/far_token_share"] == 0.5
    assert metrics_of("grpo", batch, logprobs, grpo.config(max_gap=0.6))["mismatch/far_token_share"] == 0.0


def test_reinforce_subtracts_the_running_mean_and_updates_it():
    reinforce = plugins.load("algorithms", "reinforce").ALGORITHM
    batch = batch_of([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    first = reinforce.config(kl_coef=0.0, ema_decay=0.5)
    assert reinforce.credit(batch, first).advantages[:2, 0].tolist() == pytest.approx([1 / 3, -2 / 3])
    second = reinforce.adapt(first, metrics_of("reinforce", batch, torch.zeros(6, 3), first))
    assert second.running_return == pytest.approx(2 / 3)
    third = reinforce.adapt(second, {"policy/return_mean": 0.0})
    assert third.running_return == pytest.approx(1 / 3)
    assert reinforce.credit(batch, third).advantages[0, 0] == pytest.approx(2 / 3)
    fixed = reinforce.config(kl_coef=0.0, baseline="batch")
    assert reinforce.adapt(fixed, {"policy/return_mean": 9.0}) == fixed


def test_peer_16_reinforce_s_mean_leaves_unscored_rows_out():
    reinforce = plugins.load("algorithms", "reinforce").ALGORITHM
    config = reinforce.config(kl_coef=0.0)
    batch = batch_of([1.0, float("nan"), 0.5, 0.0])
    assert metrics_of("reinforce", batch, torch.zeros(4, 3), config)["policy/return_mean"] == pytest.approx(
        0.5
    )


def test_the_loss_of_sapo_has_slope_1_at_the_old_policy_and_fades_on_both_sides():
    sapo = plugins.load("algorithms", "sapo").sapo_loss
    ratio = torch.tensor([[1.0, 0.2, 4.0]], requires_grad=True)
    sapo(ratio, torch.ones(1, 3), temperature_positive=1.0, temperature_negative=1.05).sum().backward()
    assert ratio.grad[0, 0] == -1.0
    assert (ratio.grad[0, 1:].abs() < 1).all()


def test_the_weight_of_vespo_is_1_at_the_old_policy_and_0_far_from_it():
    phi = plugins.load("algorithms", "vespo").phi
    log_weight = torch.tensor([[0.0, -5.0, 3.0, 500.0, -500.0]])
    found = phi(log_weight, k=torch.full((1, 5), 2.0), decay=torch.full((1, 5), 3.0))
    assert found[0, 0] == 1.0
    assert (found[0, 1:] < 1e-2).all() and found.isfinite().all()
