"""What the methods of the DPO family do beyond their equations: limits, directions, options, matching."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from truing import plugins
from truing.algorithms.aot import equal_ranks
from truing.algorithms.apo import apo_loss
from truing.algorithms.discopop import discopop_loss
from truing.algorithms.dpo import dpo_loss
from truing.algorithms.exo import exo_loss
from truing.algorithms.f_dpo import f_prime
from truing.algorithms.ld_dpo import tail_weights
from truing.algorithms.nca import nca_loss
from truing.algorithms.wpo import pair_weights
from truing.types import Batch, Outputs

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)


def pairs(mask=MASK, *, seed=0, **fields):
    rows, generator = len(mask), torch.Generator().manual_seed(seed)
    drawn = torch.randn(3, *mask.shape, generator=generator).double() - 2
    batch = Batch(
        prompts=tuple(torch.zeros(3, dtype=torch.long) for _ in range(rows)),
        completions=torch.zeros(mask.shape, dtype=torch.long),
        lengths=torch.full((rows,), mask.shape[1]),
        mask=mask,
        groups=torch.arange(rows // 2).repeat(2),
        paired=True,
        uids=tuple(str(i) for i in range(rows)),
        old_logprobs=drawn[0],
        ref_logprobs=drawn[1],
        **fields,
    )
    return batch, drawn[0]


def run(name, batch, logprobs, **options):
    """Return the divided terms and the gradient of the logprobs."""
    algorithm = plugins.load("algorithms", name).ALGORITHM
    config = algorithm.config(**options)
    batch = algorithm.credit(batch, config)
    leaf, order = logprobs.clone().requires_grad_(), torch.tensor([int(u) for u in batch.uids])
    terms, count = algorithm.loss(Outputs(leaf[order]), batch, config), batch.count()
    sum(t.weight * t.total / count[t.unit] for t in terms).backward()
    return {t.name: (t.total / count[t.unit]).item() for t in terms}, leaf.grad


def slope(loss, at, **options):
    x = torch.tensor([at], dtype=torch.float64).requires_grad_()
    loss(x, torch.zeros_like(x), **options).sum().backward()
    return x.grad.item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_tie_pulls_the_margin_to_zero(smoothing):
    for margin in (3.0, 0.0, -3.0):
        tie = slope(dpo_loss, margin, beta=1.0, preference=0.5, label_smoothing=smoothing)
        assert (tie > 0) == (margin > 0)
        assert (tie == 0) == (margin == 0)


def test_soft_labels_and_smoothing_compose():
    chosen, rejected = torch.tensor([2.0]).double(), torch.tensor([-1.0]).double()
    both = dpo_loss(chosen, rejected, beta=1.0, preference=0.8, label_smoothing=0.1)
    torch.testing.assert_close(both, dpo_loss(chosen, rejected, beta=1.0, preference=0.8 * 0.9 + 0.2 * 0.1))


def test_labels_are_read_only_on_request():
    batch, logprobs = pairs(labels=torch.tensor([0.5, 1.0, 0.5, 1.0]).double())
    hard, soft = (run("dpo", batch, logprobs, use_labels=use)[0]["loss/dpo"] for use in (False, True))
    assert hard != soft
    assert "labels" not in plugins.config_class("algorithms", "dpo")().needs()


def test_conservative_dpo_and_exo_rest_where_the_policy_says_what_the_label_says():
    at = math.log(0.9 / 0.1)
    assert slope(dpo_loss, at, beta=1.0, label_smoothing=0.1) == pytest.approx(0, abs=1e-12)
    assert slope(exo_loss, at, beta=1.0, label_smoothing=0.1) == pytest.approx(0, abs=1e-12)


def test_exo_without_smoothing_is_refused():
    with pytest.raises(ValidationError, match=r"greater than or equal to 0\.000001"):
        plugins.config_class("algorithms", "exo")(label_smoothing=0.0)


def test_nca_holds_the_chosen_reward_at_ln_2():
    chosen = (math.log(2) + torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)).requires_grad_()
    nca_loss(chosen, torch.zeros(3).double()).sum().backward()
    assert chosen.grad[0] < 0 < chosen.grad[2]
    assert chosen.grad[1].abs() < 1e-12


@pytest.mark.parametrize(("variant", "chosen_sign"), [("zero", -1), ("down", 1)])
def test_apo_says_which_way_each_side_goes(variant, chosen_sign):
    sides = torch.tensor([[0.5], [-0.5]]).double().requires_grad_()
    apo_loss(sides[0], sides[1], variant=variant).sum().backward()
    assert sides.grad[0].sign() == chosen_sign  # a positive gradient makes the completion less likely
    assert sides.grad[1] > 0


def test_f_dpo_runs_from_the_reverse_to_the_forward_kl():
    ratios = torch.linspace(-3, 3, 7).double()
    nearly_reverse, nearly_forward = (f_prime(ratios, divergence="alpha", alpha=a) for a in (1e-6, 1 - 1e-6))
    torch.testing.assert_close(nearly_reverse, ratios, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(nearly_forward, f_prime(ratios, divergence="forward_kl"), rtol=1e-4, atol=1e-4)
    a = 0.3  # TRL's parameter is 1 - alpha
    theirs = (ratios.exp() ** (a - 1) - 1) / (a - 1)
    torch.testing.assert_close(f_prime(ratios, divergence="alpha", alpha=1 - a), theirs)


def test_ld_dpo_counts_trained_tokens_only():
    weights = tail_weights(MASK, alpha=0.25)
    assert weights[MASK].tolist() == [1, 1, 1, 0.25, 1, 1, 1, 1, 1, 1, 1, 0.25]
    assert weights[2].tolist() == [1, 1, 1, 1]  # the hole before its third trained token is not counted


def test_ld_dpo_is_dpo_at_alpha_1_and_blind_past_the_shorter_side_at_0():
    batch, logprobs = pairs()
    dpo, same = (run(n, batch, logprobs, **o)[1] for n, o in (("dpo", {}), ("ld_dpo", {"alpha": 1.0})))
    torch.testing.assert_close(same, dpo)
    blind = run("ld_dpo", batch, logprobs, alpha=0.0)[1]
    assert (blind[0] != 0).tolist() == [True, True, True, False]


@pytest.mark.parametrize(("tau", "uphill"), [(0.05, True), (0.10, True), (0.105, False), (1.0, False)])
def test_discopop_starts_uphill_below_a_tau_of_a_tenth(tau, uphill):
    """At d = 0 the slope is beta ((1 - ln 2) / (4 tau) - 3/4): positive for tau < (1 - ln 2) / 3."""
    found = slope(discopop_loss, 0.0, beta=0.1, tau=tau)
    assert found == pytest.approx(0.1 * ((1 - math.log(2)) / (4 * tau) - 0.75))
    assert (found > 0) == uphill


def test_length_normalised_dpo_does_not_count_tokens():
    """A completion twice as long, of the same log-ratio per token, weighs the same; under DPO twice."""
    short, long = torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)
    found = {}
    for name in ("ln_dpo", "dpo"):
        for mask in (short, long):
            batch, _ = pairs(mask)
            moved = batch.ref_logprobs + torch.tensor([[0.2], [-0.1]]).double()
            found[name, mask.shape[1]] = run(name, batch, moved)[0]["rewards/margin"]
    assert found["ln_dpo", 4] == pytest.approx(found["ln_dpo", 2])
    assert found["dpo", 4] == pytest.approx(2 * found["dpo", 2])


def test_the_chosen_token_mean_is_over_the_chosen_side_only():
    batch, logprobs = pairs()
    found, _ = run("rpo", batch, logprobs, nll_reduction="token_mean")
    assert found["loss/nll"] == pytest.approx(-logprobs[:2][MASK[:2]].mean().item())
    found, _ = run("rpo", batch, logprobs)
    each = [-row[on].mean().item() for row, on in zip(logprobs[:2], MASK[:2], strict=True)]
    assert found["loss/nll"] == pytest.approx(sum(each) / 2)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_half_the_temperature_gives_the_sum_of_squares(temperature):
    """log sum_v p_v^2 = 2 log p(y) - log p'(y), whatever y is: WPO's weight without the logits."""
    logits = torch.randn(5, 11, generator=torch.Generator().manual_seed(0)).double() * 3
    logprobs, sharp = ((logits / t).log_softmax(-1) for t in (temperature, temperature / 2))
    expected = logprobs.exp().square().sum(-1, keepdim=True).log()
    torch.testing.assert_close(2 * logprobs - sharp, expected.expand_as(logprobs))


def test_wpo_weighs_a_pair_like_those_that_the_policy_writes_by_one():
    mask = torch.ones(2, 3, dtype=torch.bool)
    uniform = torch.full((2, 3), -math.log(7))  # every token has the average probability, sharp or not
    assert pair_weights(uniform, uniform, mask, max_weight=0.0).tolist() == [1.0]
    likely = pair_weights(uniform, uniform + 1, mask, max_weight=0.0)
    assert likely.item() == pytest.approx(math.exp(2))
    assert pair_weights(uniform, uniform + 1, mask, max_weight=1.0).tolist() == [1.0]


@pytest.mark.parametrize("variant", ["paired", "unpaired"])
def test_aot_of_one_pair_is_dpo(variant):
    batch, logprobs = pairs(MASK[:2])
    torch.testing.assert_close(
        run("aot", batch, logprobs, variant=variant)[1], run("dpo", batch, logprobs)[1]
    )


def test_aot_pairs_rows_of_equal_rank():
    mask = torch.ones(6, 2, dtype=torch.bool)
    batch, logprobs = pairs(mask)
    aot = plugins.load("algorithms", "aot").ALGORITHM
    credited = aot.credit(batch, aot.config(variant="unpaired"))
    ratios = (logprobs - batch.ref_logprobs).sum(-1)
    chosen, rejected = ratios[torch.tensor([int(u) for u in credited.uids])].chunk(2)
    assert credited.uids[:3] == batch.uids[:3]
    assert chosen.argsort().tolist() == rejected.argsort().tolist()
    assert sorted(credited.uids) == sorted(batch.uids)


def test_equal_ranks_keeps_ties_apart():
    same = torch.zeros(4)
    assert sorted(equal_ranks(same, torch.tensor([3.0, 1.0, 1.0, 2.0])).tolist()) == [0, 1, 2, 3]


def test_a_pair_of_two_prompts_counts_both_in_the_budget():
    batch, _ = pairs(torch.ones(4, 2, dtype=torch.bool))
    one_prompt = [len(part) for part in batch.split(max_tokens=14)]
    aot = plugins.load("algorithms", "aot").ALGORITHM
    repaired = batch.rows(torch.tensor([0, 1, 3, 2]))
    assert one_prompt == [4]  # two pairs of 3 + 2 + 2 tokens
    assert [len(part) for part in repaired.split(max_tokens=14)] == [2, 2]  # of 3 + 3 + 2 + 2
    assert aot.config().needs() >= {"old_logprobs"}


FORMS = [  # beside the defaults, which the contract tests
    ("dpo", {"use_labels": True, "label_smoothing": 0.1}),
    ("ipo", {"use_labels": True}),
    ("ipo", {"reduction": "token_mean"}),
    ("rpo", {"nll_reduction": "token_mean"}),
    ("f_dpo", {"divergence": "forward_kl"}),
    ("f_dpo", {"divergence": "alpha", "alpha": 0.9}),
    ("apo", {"variant": "down"}),
    ("aot", {"variant": "unpaired", "label_smoothing": 0.1}),
    ("discopop", {"tau": 1.0, "beta": 2.0}),
    ("ld_dpo", {"alpha": 0.0}),
    ("bco", {"reward_shift": -2.0}),
    ("exo", {"label_smoothing": 1e-6}),
]
forms = pytest.mark.parametrize(("name", "options"), FORMS, ids=[f"{n}-{o}" for n, o in FORMS])
LABELS = torch.tensor([0.2, 0.9] * 2).double()


@forms
@pytest.mark.parametrize("gap", [50.0, -50.0, 500.0, -500.0])
def test_peer_15_every_form_is_finite_at_extreme_log_ratios(name, options, gap):
    batch, logprobs = pairs(labels=LABELS)
    shift = gap * torch.tensor(
        [[1.0], [-1.0], [1.0], [1.0]]
    )  # both sides of the second pair, one of the first
    for dtype in (torch.float32, torch.float64):
        cast = {k: getattr(batch, k).to(dtype) for k in ("ref_logprobs", "old_logprobs", "labels")}
        terms, grad = run(name, replace(batch, **cast), (logprobs + shift).to(dtype), **options)
        assert all(math.isfinite(v) for v in terms.values()), terms
        assert grad.isfinite().all()


@forms
def test_peer_01_every_form_has_one_gradient_for_every_split(name, options):
    mask = torch.ones(8, 4, dtype=torch.bool).tril(2)
    batch, logprobs = pairs(mask, labels=LABELS.repeat(2))
    algorithm = plugins.load("algorithms", name).ALGORITHM
    config = algorithm.config(**options)
    expected, batch = run(name, batch, logprobs, **options)[1], algorithm.credit(batch, config)
    for max_tokens in (1, 20, 30):
        leaf, count = logprobs.clone().requires_grad_(), batch.count()
        for part in batch.split(max_tokens):
            rows = torch.tensor([int(u) for u in part.uids])
            terms = algorithm.loss(Outputs(leaf[rows, : part.mask.shape[1]]), part, config)
            sum(t.weight * t.total / count[t.unit] for t in terms).backward()
        torch.testing.assert_close(leaf.grad, expected)
