"""ORPO, SimPO, CPO, AlphaPO, KTO and DFT learn the toy task; planted bugs are seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import toy


def by_logprobs(run):
    return toy.pair_accuracy(run, by="logprobs")


def by_log_ratio(run):
    return toy.pair_accuracy(run, by="log_ratio")


METHODS = {  # name of the case: (method, what is measured, what is enough, options)
    "orpo": ("orpo", by_logprobs, 0.95, {}),
    "simpo": ("simpo", by_logprobs, 0.95, {}),
    "cpo": ("cpo", by_logprobs, 0.95, {}),
    "cpo-ipo": ("cpo", by_logprobs, 0.95, {"loss": "ipo"}),
    "alphapo": ("alphapo", by_logprobs, 0.95, {}),
    "kto": ("kto", by_log_ratio, 0.95, {}),
    "kto-none": ("kto", by_log_ratio, 0.95, {"kl_estimate": "none"}),
    "sft-dft": ("sft", toy.mean_reward, 0.9, {"loss": "dft"}),
}
VARIANTS = ("cpo-ipo", "kto-none")
CASES = [(c, s) for c in METHODS for s in range(5) if s == 0 or c not in VARIANTS]
PAIRED = ["orpo", "simpo", "cpo", "cpo-ipo", "alphapo"]


def achieved(case, **how):
    name, measure, _, options = METHODS[case]
    return measure(toy.learn(name, options=options, **how))


@pytest.mark.parametrize(("case", "seed"), CASES)
def test_it_learns(case, seed):
    assert achieved(case, seed=seed) >= METHODS[case][2]


@pytest.mark.parametrize("case", METHODS)
def test_the_check_sees_a_learning_rate_of_zero(case):
    assert achieved(case, learning_rate=0.0, num_steps=2) < METHODS[case][2] - 0.1


BUGS = [(n, toy.flipped_sign) for n in METHODS]
BUGS += [(n, toy.swapped_pairs) for n in PAIRED] + [(n, toy.swapped_labels) for n in ("kto", "kto-none")]


@pytest.mark.parametrize(("case", "bug"), BUGS, ids=[f"{n}-{b.__name__}" for n, b in BUGS])
def test_the_check_sees_a_planted_bug(case, bug):
    assert achieved(case, bug=bug) < METHODS[case][2] - 0.1


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
    assert achieved(case, bug=without_likelihood) >= 0.95
    assert achieved(case, bug=lambda a: toy.flipped_sign(without_likelihood(a))) < 0.5
