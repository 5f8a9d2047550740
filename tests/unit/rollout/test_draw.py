"""Drawing: the distribution, the cut-offs, the edges of the inverse CDF, and errors."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from truing.errors import NonFiniteError
from truing.rollout._draw import Drawer


def draws(logits, count, **options):
    """Return `count` draws from one row of logits, at evenly spread uniforms shuffled over rows."""
    uniforms = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options.setdefault("temperature", 1.0)
    return Drawer(**options)(logits.expand(count, -1), uniforms)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_draws_follow_the_tempered_softmax(temperature):
    logits = torch.tensor([0.3, -1.0, 2.0, 1.1, 0.0, -0.4, 1.5])
    tokens, logprobs = draws(logits, 20_000, temperature=temperature)
    expected = (logits.double() / temperature).softmax(-1)
    assert chisquare(tokens.bincount(minlength=7).numpy(), (expected * 20_000).numpy()).pvalue > 0.01
    torch.testing.assert_close(logprobs, expected.log()[tokens].float())


def test_draws_reach_every_block_of_a_large_vocabulary():
    logits = torch.randn(3_000, generator=torch.Generator().manual_seed(1))
    tokens, _ = draws(logits, 10_000)
    expected = logits.double().softmax(-1).view(10, 300).sum(-1) * 10_000
    found = tokens.bincount(minlength=3_000).view(10, 300).sum(-1)
    assert chisquare(found.numpy(), expected.numpy()).pvalue > 0.01


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_extreme_uniforms_never_draw_an_impossible_token(uniform):
    logits = torch.full((1, 700), -torch.inf)
    logits[0, [3, 300, 650]] = 0.0
    tokens, logprobs = Drawer(temperature=1.0)(logits, torch.tensor([uniform], dtype=torch.float64))
    assert tokens.item() == (3 if uniform == 0 else 650)
    assert logprobs.item() == pytest.approx(-1.0986, abs=1e-4)


def test_top_k_and_top_p_cut_and_logprobs_stay_of_the_full_softmax():
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    by_k, logprobs = draws(logits, 1_000, top_k=2)
    assert set(by_k.tolist()) == {0, 1}
    torch.testing.assert_close(logprobs, logits[by_k])
    assert set(draws(logits, 1_000, top_p=0.8)[0].tolist()) == {0, 1, 2}
    assert set(draws(logits, 1_000, top_p=0.01)[0].tolist()) == {0}
    kept = draws(logits, 20_000, top_k=2)[0].bincount(minlength=2)
    assert chisquare(kept.numpy(), [20_000 * 2 / 3, 20_000 / 3]).pvalue > 0.01


def test_greedy_takes_the_likeliest_and_reports_temperature_one():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    tokens, logprobs = Drawer(temperature=0.0)(logits, torch.full((2,), 0.99, dtype=torch.float64))
    assert tokens.tolist() == [1, 0]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[[0, 1], [1, 0]])


def test_buffers_do_not_leak_between_batches_of_other_sizes():
    drawer, half = Drawer(temperature=1.3), torch.full((5,), 0.5, dtype=torch.float64)
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(2))
    first = drawer(logits, half)
    drawer(logits.flip(0)[:2], half[:2])
    again = drawer(logits, half)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_non_finite_logits_are_an_error_that_names_the_row(bad, temperature):
    logits = torch.zeros(3, 8)
    logits[1, 2] = bad
    with pytest.raises(NonFiniteError, match=r"rows \[1\]"):
        Drawer(temperature=temperature)(logits, torch.full((3,), 0.5, dtype=torch.float64))
