"""ORPO, SimPO, CPO, AlphaPO, KTO and DFT learn the toy task; planted bugs are seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import toy

METHODS = {
    "orpo": toy.Case("orpo", toy.by_logprobs, 0.95),
    "simpo": toy.Case("simpo", toy.by_logprobs, 0.95),
    "cpo": toy.Case("cpo", toy.by_logprobs, 0.95),
    "cpo-ipo": toy.Case("cpo", toy.by_logprobs, 0.95, {"options": {"loss": "ipo"}}),
    "alphapo": toy.Case("alphapo", toy.by_logprobs, 0.95),
    "kto": toy.Case("kto", toy.by_log_ratio, 0.95),
    "kto-none": toy.Case("kto", toy.by_log_ratio, 0.95, {"options": {"kl_estimate": "none"}}),
    "sft-dft": toy.Case("sft", toy.mean_reward, 0.9, {"options": {"loss": "dft"}}),
}
VARIANTS = ("cpo-ipo", "kto-none")
CASES = [(c, s) for c in METHODS for s in range(5) if s == 0 or c not in VARIANTS]
PAIRED = ["orpo", "simpo", "cpo", "cpo-ipo", "alphapo"]


@pytest.mark.parametrize(("case", "seed"), CASES)
def test_it_learns(case, seed):
    assert METHODS[case].achieved(seed=seed) >= METHODS[case].enough


@pytest.mark.parametrize("case", METHODS)
def test_the_check_sees_a_learning_rate_of_zero(case):
    assert METHODS[case].achieved(learning_rate=0.0, num_steps=2) < METHODS[case].enough - 0.1


BUGS = [(n, toy.flipped_sign) for n in METHODS]
BUGS += [(n, toy.swapped_pairs) for n in PAIRED] + [(n, toy.swapped_labels) for n in ("kto", "kto-none")]


@pytest.mark.parametrize(("case", "bug"), BUGS, ids=[f"{n}-{b.__name__}" for n, b in BUGS])
def test_the_check_sees_a_planted_bug(case, bug):
    assert METHODS[case].achieved(bug=bug) < METHODS[case].enough - 0.1


def test_dft_is_sharper_than_its_demonstrations_and_nll_is_not():
    """A teacher is right with probability 0.83: likelihood copies that, DFT follows the mode."""
    plain, dft = (toy.learn("sft", options={"loss": loss}) for loss in ("nll", "dft"))
    assert toy.mean_reward(plain) < 0.9 < toy.mean_reward(dft)
    assert toy.imitation(dft) < toy.imitation(plain)


def test_kto_s_reference_point_starts_at_zero_and_moves():
    history = toy.learn("kto", options={}).history
    assert history[0]["kl/reference_point"] == 0
    assert history[-1]["kl/reference_point"] != 0
    assert history[-1]["rewards/desirable"] > 0 > history[-1]["rewards/undesirable"]


def without_likelihood(algorithm):
    def loss(outputs, batch, config):
        return [t for t in algorithm.loss(outputs, batch, config) if t.name != "loss/nll"]

    return replace(algorithm, loss=loss)


@pytest.mark.parametrize("case", ["orpo", "cpo"])
def test_the_preference_term_learns_without_the_likelihood_that_leads_it(case):
    """Imitation of the chosen side alone ranks this task's pairs, so the methods' own term is tried alone."""
    assert METHODS[case].achieved(bug=without_likelihood) >= 0.95
    assert METHODS[case].achieved(bug=lambda a: toy.flipped_sign(without_likelihood(a))) < 0.5
