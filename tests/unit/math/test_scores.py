from __future__ import annotations

import pytest
import torch

from truing.math.scores import Calibration, combine_scores, correlation, fit_calibration

SCORES = torch.tensor([3.0, 1.0, 4.0, 1.5, 9.0], dtype=torch.float64)
LENGTHS = torch.tensor([10.0, 5.0, 12.0, 7.0, 40.0], dtype=torch.float64)


def test_calibrated_scores_have_mean_0_and_variance_1():
    for remove_length in (False, True):
        found = fit_calibration(SCORES, LENGTHS, remove_length=remove_length)(SCORES, LENGTHS)
        assert found.mean().item() == pytest.approx(0, abs=1e-12)
        assert found.std(correction=0).item() == pytest.approx(1)


def test_removing_length_leaves_no_correlation_with_it():
    found = fit_calibration(SCORES, LENGTHS, normalise=False, remove_length=True)(SCORES, LENGTHS)
    assert correlation(SCORES, LENGTHS).item() > 0.9
    assert correlation(found, LENGTHS).item() == pytest.approx(0, abs=1e-12)
    assert found.mean().item() == pytest.approx(SCORES.mean().item())


def test_normalising_alone_keeps_the_order_and_ignores_length():
    fitted = fit_calibration(SCORES, LENGTHS)
    assert (fitted(SCORES, LENGTHS).argsort() == SCORES.argsort()).all()
    torch.testing.assert_close(fitted(SCORES, LENGTHS), fitted(SCORES, 0 * LENGTHS))


def test_equal_lengths_have_no_slope():
    assert fit_calibration(SCORES, torch.full_like(SCORES, 7), remove_length=True).length_slope == 0


def test_equal_scores_cannot_be_normalised():
    with pytest.raises(ValueError, match="all 5 scores are 2"):
        fit_calibration(torch.full_like(SCORES, 2), LENGTHS)


def test_correlation_is_torch_s_and_0_of_a_constant():
    expected = torch.corrcoef(torch.stack([SCORES, LENGTHS]))[0, 1]
    torch.testing.assert_close(correlation(SCORES, LENGTHS), expected)
    constant = torch.ones(5, dtype=torch.float64, requires_grad=True)
    found = correlation(constant, LENGTHS)
    assert found.item() == 0
    assert (torch.autograd.grad(found, constant)[0] == 0).all()


def test_calibration_does_nothing_by_default():
    torch.testing.assert_close(Calibration()(SCORES, LENGTHS), SCORES)


def test_an_uncertain_completion_loses_its_lead():
    members = torch.tensor([[1.0, 0.8], [1.0, 3.0], [1.0, 0.4]])
    assert combine_scores(members, how="mean").argmax() == 1
    assert combine_scores(members, how="worst").argmax() == 0
    assert combine_scores(members, how="uncertainty", penalty=0.5).argmax() == 0
