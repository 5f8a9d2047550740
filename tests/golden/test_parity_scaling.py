"""Scaling laws, best-of-n and votes against numbers from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from truing.evals import scaling_laws, statistics, votes


def texts(id: str) -> dict[str, list[str]]:
    """Return the inputs of a fixture as they are written: Golden keeps only numbers."""
    path = Path(__file__).with_name("parity.json")
    fixtures = json.loads(path.read_text(encoding="utf-8"))["fixtures"]
    return next(f["inputs"] for f in fixtures if f["id"] == id)


@pytest.mark.parametrize(("id", "form"), [("scaling.gao_bon", "best_of_n"), ("scaling.gao_rl", "rl")])
def test_over_optimisation_and_its_peak(parity, id, form):
    golden = parity[id]
    p = {k: golden.params[k] for k in ("alpha", "beta")}
    found = [scaling_laws.over_optimisation(form, d, **p) for d in golden.inputs["d"].tolist()]
    golden.check(found, golden.expected["R"])
    d, gain = scaling_laws.peak_of(form, **p)
    golden.check(d, golden.expected["peak_d"])
    golden.check(gain, golden.expected["peak_R"])


@pytest.mark.parametrize(("name", "form"), [("bon", "best_of_n"), ("rl", "rl")])
def test_fit_of_over_optimisation(parity, name, form):
    golden = parity["scaling.gao_fit"]
    d, gain = golden.inputs["d"].tolist(), golden.inputs[f"R_{name}"].tolist()
    found = scaling_laws.fit_over_optimisation(d, gain, form=form, num_resamples=50)
    for parameter, value in golden.expected[name].items():
        golden.check(found.parameters[parameter].value, value)


def test_sigmoid_and_the_fit_of_its_own_points(parity):
    golden = parity["scaling.scalerl_sigmoid"]
    p = golden.params
    law = {"asymptote": p["A"], "slope": p["B"], "midpoint": p["C_mid"], "start": p["R0"]}
    compute = golden.inputs["C"].tolist()
    found = [scaling_laws.sigmoid(c, **law) for c in compute]
    golden.check(found, golden.expected["R"])
    golden.check(scaling_laws.sigmoid(p["C_mid"], **law), golden.expected["value_at_C_mid"])
    fit = scaling_laws.fit_sigmoid(compute, found, start=p["R0"], num_resamples=20)
    for name in ("asymptote", "slope", "midpoint"):
        golden.check(fit.parameters[name].value, law[name], rtol=1e-6)


def test_best_of_n_kl(parity):
    golden = parity["bon.kl"]
    numbers = [int(n) for n in golden.inputs["n"].tolist()]
    golden.check([statistics.best_of_n_kl_bound(n) for n in numbers], golden.expected["kl_nats"])


def test_best_of_n_kl_of_finitely_many_outcomes_is_below_the_bound(parity):
    golden = parity["bon.kl_exact_discrete"]
    outcomes, n = int(golden.params["K"]), int(golden.params["n"])
    even = [1 / outcomes] * outcomes
    golden.check(statistics.best_of_n_distribution(even, n), golden.expected["bon_distribution"])
    golden.check(statistics.best_of_n_kl(even, n), golden.expected["kl_exact"])
    golden.check(statistics.best_of_n_kl_bound(n), golden.expected["formula"])
    assert golden.expected["kl_exact"] < golden.expected["formula"]


def test_best_of_n_reward(parity):
    golden = parity["bon.unbiased_estimator"]
    proxy, gold = golden.inputs["proxy"].tolist(), golden.inputs["gold"].tolist()
    found = [statistics.best_of_n_reward(proxy, gold, n) for n in range(1, len(proxy) + 1)]
    golden.check(found, golden.expected["expected_gold_for_n_1_to_8"])


def test_pass_at_k(parity):
    golden = parity["bon.pass_at_k"]
    total, correct = int(golden.params["n"]), [int(c) for c in golden.inputs["correct"].tolist()]
    for name, expected in golden.expected.items():
        golden.check([statistics.pass_at_k(total, c, int(name[1:])) for c in correct], expected)


@pytest.mark.parametrize("how", ["last", "min", "prod", "mean"])
def test_weighted_majority(parity, how):
    golden, given = parity["infer.weighted_majority"], texts("infer.weighted_majority")
    expected, answers = golden.expected[how], given["answers"]
    scores = [votes.aggregate_steps(steps, how) for steps in given["step_scores"]]
    golden.check(scores, expected["scores"])
    assert votes.weighted_votes(answers, scores) == pytest.approx(expected["weighted_votes"])
    assert votes.weighted_majority(answers, scores) == expected["weighted_winner"]
    assert max(zip(scores, answers, strict=True))[1] == expected["best_of_n"]
    assert votes.weighted_majority(answers) == golden.expected["majority"]
