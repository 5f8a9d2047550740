"""SFT, the reward model, DPO, PPO, GRPO and DAPO learn the toy task; planted bugs are seen."""

from __future__ import annotations

import pytest
import toy

METHODS = {
    "sft": toy.Case("sft", toy.imitation, 0.95),
    "reward_model": toy.Case("reward_model", toy.by_scores, 0.95),
    "dpo": toy.Case("dpo", toy.by_log_ratio, 0.95),
    # at kl_coef 0.05 the best policy of this task earns 0.82
    "ppo": toy.Case("ppo", toy.mean_reward, 0.9, {"options": {"kl_coef": 0.01}}),
    "grpo": toy.Case("grpo", toy.mean_reward, 0.9),
    "dapo": toy.Case("dapo", toy.mean_reward, 0.9),
}
ONLINE = ["ppo", "grpo", "dapo"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", METHODS)
def test_it_learns(name, seed):
    assert METHODS[name].achieved(seed=seed) >= METHODS[name].enough


@pytest.mark.parametrize("name", METHODS)
def test_the_check_sees_a_learning_rate_of_zero(name):
    assert METHODS[name].achieved(learning_rate=0.0, num_steps=2) < METHODS[name].enough - 0.1


BUGS = [(n, toy.flipped_sign) for n in METHODS]
BUGS += [(n, toy.swapped_pairs) for n in ("dpo", "reward_model")]
BUGS += [(n, toy.advantages_of_other_rows) for n in ONLINE]


@pytest.mark.parametrize(("name", "bug"), BUGS, ids=[f"{n}-{b.__name__}" for n, b in BUGS])
def test_the_check_sees_a_planted_bug(name, bug):
    assert METHODS[name].achieved(bug=bug) < METHODS[name].enough - 0.1


@pytest.mark.parametrize("name", ONLINE)
def test_peer_13_sampler_and_learner_agree_while_no_weight_moves(name):
    run = toy.learn(name, learning_rate=0.0, num_steps=2)
    for metrics in run.history:
        assert abs(metrics["policy/ratio_gap_mean"]) < 1e-5
        assert metrics["mismatch/logprob_gap_mean"] < 1e-5
