"""Methods that learn from pairs they sample themselves reach the toy task's optimum; planted bugs are seen."""

from __future__ import annotations

import pytest
import toy

METHODS = {
    "online_dpo": toy.Case("online_dpo", toy.mean_reward, 0.9),
    "iterative_dpo": toy.Case("iterative_dpo", toy.mean_reward, 0.9),
    "sppo": toy.Case("sppo", toy.mean_reward, 0.9),
    "rebel": toy.Case("rebel", toy.mean_reward, 0.9),
    "rejection_sampling": toy.Case("rejection_sampling", toy.mean_reward, 0.9),
    # half of its samples come from the reference, which is random here and seldom right
    "xpo": toy.Case("xpo", toy.mean_reward, 0.9, {"num_steps": 80}),
    # rewards lie in [0, 1], so sigmoid of a difference says little and beta must be small beside it
    "nash_md": toy.Case("nash_md", toy.mean_reward, 0.9, {"options": {"beta": 0.01, "preference": "wins"}}),
    "spin": toy.Case("spin", toy.imitation, 0.95, {"num_steps": 100, "learning_rate": 1e-2}),
}
ONLINE = [n for n in METHODS if n != "spin"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", METHODS)
def test_it_learns(name, seed):
    assert METHODS[name].achieved(seed=seed) >= METHODS[name].enough


@pytest.mark.parametrize("name", METHODS)
def test_the_check_sees_a_learning_rate_of_zero(name):
    assert METHODS[name].achieved(learning_rate=0.0, num_steps=2) < METHODS[name].enough - 0.1


BUGS = [(n, toy.flipped_sign) for n in METHODS]
BUGS += [("spin", toy.swapped_pairs)]
BUGS += [(n, toy.advantages_of_other_rows) for n in ONLINE]


@pytest.mark.parametrize(("name", "bug"), BUGS, ids=[f"{n}-{b.__name__}" for n, b in BUGS])
def test_the_check_sees_a_planted_bug(name, bug):
    assert METHODS[name].achieved(bug=bug) < METHODS[name].enough - 0.1


@pytest.mark.parametrize("name", METHODS)
def test_peer_13_sampler_and_learner_agree_while_no_weight_moves(name):
    """Also where an opponent or a person wrote half of the batch: their rows are not looked at."""
    for metrics in METHODS[name].train(learning_rate=0.0, num_steps=2).history:
        assert metrics["mismatch/logprob_gap_mean"] < 1e-5
