"""The critic-free online methods learn the toy task through the real loop; planted bugs are seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import toy

LIGHT_KL = {"kl_coef": 0.01}  # at the default the best policy of this task earns less than 0.9
CALM = {"learning_rate": 1e-2, "num_steps": 100}  # without a prompt's own baseline a rash start gets stuck
METHODS = {
    "reinforce": toy.Case(
        "reinforce", toy.mean_reward, 0.9, {"options": LIGHT_KL, "num_minibatches": 1, "num_steps": 80}
    ),
    "reinforce_pp": toy.Case("reinforce_pp", toy.mean_reward, 0.9, CALM),
    "reinforce_pp_baseline": toy.Case("reinforce_pp_baseline", toy.mean_reward, 0.9),
    "rloo": toy.Case("rloo", toy.mean_reward, 0.9, {"options": LIGHT_KL}),
    "remax": toy.Case(
        "remax", toy.mean_reward, 0.9, {"options": LIGHT_KL, "num_minibatches": 1, "num_steps": 80}
    ),
    "dr_grpo": toy.Case("dr_grpo", toy.mean_reward, 0.9, {"options": {"max_tokens": toy.WIDTH}}),
    "gspo": toy.Case("gspo", toy.mean_reward, 0.9, {"num_steps": 100}),
    "luspo": toy.Case("luspo", toy.mean_reward, 0.9, {"num_steps": 100}),
    "cispo": toy.Case("cispo", toy.mean_reward, 0.9),
    "sapo": toy.Case("sapo", toy.mean_reward, 0.9),
    "vespo": toy.Case("vespo", toy.mean_reward, 0.9),
    "gmpo": toy.Case("gmpo", toy.mean_reward, 0.9),
    "decoupled_ppo": toy.Case("decoupled_ppo", toy.mean_reward, 0.9, {"staleness": 3}),
    "distillation": toy.Case("distillation", toy.imitation, 0.9),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", METHODS)
def test_it_learns(name, seed):
    assert METHODS[name].achieved(seed=seed) >= METHODS[name].enough


@pytest.mark.parametrize("name", METHODS)
def test_the_check_sees_a_learning_rate_of_zero(name):
    assert METHODS[name].achieved(learning_rate=0.0, num_steps=2) < METHODS[name].enough - 0.1


def teacher_of_other_rows(algorithm):
    def credit(batch, config):
        return algorithm.credit(replace(batch, ref_logprobs=batch.ref_logprobs.roll(1, 0)), config)

    return replace(algorithm, credit=credit)


BUGS = [(n, toy.flipped_sign) for n in METHODS]
BUGS += [(n, toy.advantages_of_other_rows) for n in METHODS if n != "distillation"]
BUGS += [("distillation", teacher_of_other_rows)]


@pytest.mark.parametrize(("name", "bug"), BUGS, ids=[f"{n}-{b.__name__}" for n, b in BUGS])
def test_the_check_sees_a_planted_bug(name, bug):
    assert METHODS[name].achieved(bug=bug) < METHODS[name].enough - 0.1


@pytest.mark.parametrize("name", METHODS)
def test_peer_13_sampler_and_learner_agree_while_no_weight_moves(name):
    run = METHODS[name].train(learning_rate=0.0, num_steps=2, staleness=0)
    for metrics in run.history:
        assert abs(metrics["policy/ratio_gap_mean"]) < 1e-5
        assert metrics["mismatch/logprob_gap_mean"] < 1e-5


OTHER = {
    "dapo": {"high_entropy_share": 0.5, "dual_clip": 3.0},
    "grpo": {"kl_coef": 0.01, "kl_estimator": "k3_ratio", "mismatch": "sequence_mask", "max_gap": 0.1},
    "rloo": {"kl_coef": 0.0, "ratio_level": "product", "normalize": True},
    "reinforce": {"kl_coef": 0.0, "baseline": "batch"},
    "cispo": {"ratio_min": 0.8, "ratio_max": 1.2, "scale_rewards": "batch"},
    "reinforce_pp_baseline": {"kl_coef": 0.0, "mismatch": "token_mask"},
}


@pytest.mark.parametrize("name", OTHER)
def test_it_learns_with_its_other_choices(name):
    assert toy.mean_reward(toy.learn(name, options=OTHER[name], num_minibatches=1, **CALM)) >= 0.9


def test_distillation_learns_the_teacher_s_whole_completions_too():
    assert METHODS["distillation"].achieved(options={"discount": 1.0}, num_steps=100) >= 0.9


def test_stale_rollouts_are_learned_from_and_seen():
    """The proximal policy is today's, so nothing is clipped before the first update; the gap is reported."""
    run = toy.learn("decoupled_ppo", staleness=3, num_minibatches=1, num_steps=10)
    assert all(m["policy/clip_fraction_high"] == 0.0 for m in run.history)
    assert max(m["mismatch/logprob_gap_mean"] for m in run.history) > 0.05


def test_reinforce_carries_its_running_mean_from_step_to_step():
    run = toy.learn("reinforce", options={"kl_coef": 0.0, "ema_decay": 0.5}, num_minibatches=1, num_steps=4)
    seen = [m["policy/return_mean"] for m in run.history]
    expected = seen[0]
    for value in seen:
        expected = 0.5 * expected + 0.5 * value
    assert run.config.running_return == pytest.approx(expected)
    assert type(run.config)(**run.config.model_dump(mode="json")) == run.config  # as a checkpoint keeps it
