"""KTO's reference point comes from rows that do not belong together; its loss is bounded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truing import plugins
from truing.errors import DataError
from truing.train.reference_point import donors, mismatched, reference_point
from truing.types import Batch, Outputs

KTO = plugins.load("algorithms", "kto")


def batch_of(rows: list[tuple[list[int], list[int]]], trained: list[list[bool]] | None = None) -> Batch:
    width = max(len(c) for _, c in rows)
    completions, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width).bool()
    for i, (_, tokens) in enumerate(rows):
        completions[i, : len(tokens)] = torch.tensor(tokens)
        mask[i, : len(tokens)] = torch.tensor(trained[i]) if trained else True
    return Batch(
        prompts=tuple(torch.tensor(p) for p, _ in rows),
        completions=completions,
        lengths=torch.tensor([len(c) for _, c in rows]),
        mask=mask,
        groups=torch.arange(len(rows)),
        uids=tuple(f"u{i}" for i in range(len(rows))),
        labels=torch.ones(len(rows)),
    )


def content(batch: Batch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    rows = zip(batch.prompts, batch.completions.tolist(), batch.lengths.tolist(), strict=True)
    return [(tuple(p.tolist()), tuple(c[:n])) for p, c, n in rows]


@pytest.mark.parametrize("size", range(2, 10))
def test_peer_04_rows_of_any_batch_size_are_rotated_by_one(size):
    batch = batch_of([([i], [10 + i, 20]) for i in range(size)])
    assert donors(batch) == [size - 1, *range(size - 1)]
    assert content(mismatched(batch)) == [((i,), (10 + (i - 1) % size, 20)) for i in range(size)]


def test_peer_04_a_batch_of_one_row_is_refused():
    with pytest.raises(DataError, match=r"one row \(u0\).*batch_size to 2 or more, or options.kl_estimate"):
        mismatched(batch_of([([1], [2])]))


few = st.lists(st.integers(0, 2), min_size=1, max_size=2)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(few, few), min_size=2, max_size=9))
def test_peer_04_no_row_is_matched(rows):
    """Over prompts and completions from so few tokens that many of them are the same."""
    batch, own = batch_of(rows), set(content(batch_of(rows)))
    prompts, said = {p for p, _ in own}, {c for _, c in own}
    foreign = {p for p in prompts if any((p, c) not in own for c in said)}
    if not foreign:
        with pytest.raises(DataError, match="no row is mismatched"):
            mismatched(batch)
        return
    found = content(mismatched(batch))
    assert not set(found) & own
    assert [p for p, _ in found] == [tuple(p) for p, _ in rows if tuple(p) in foreign]
    assert {c for _, c in found} <= said


def test_the_completion_brings_its_mask_along():
    batch = batch_of([([1], [5, 6, 7]), ([2], [8])], trained=[[False, True, True], [True]])
    found = mismatched(batch)
    assert found.lengths.tolist() == [1, 3]
    assert found.mask.tolist() == [[True, False, False], [False, True, True]]
    assert found.uids == ("u0/mismatched", "u1/mismatched")


def test_the_point_is_the_mean_log_ratio_over_trained_tokens_and_not_clamped():
    batch = batch_of([([1], [5, 6, 7]), ([2], [8])], trained=[[False, True, True], [True]])

    def policy(rows: Batch) -> torch.Tensor:  # -1 a token of the text, prompts count as well
        return -(rows.completions + torch.stack(list(rows.prompts))).float() / 10

    def reference(rows: Batch) -> torch.Tensor:
        return torch.zeros(rows.completions.shape)

    point = reference_point(batch, policy, reference)
    expected = -((1 + 8) + (2 + 6) + (2 + 7)) / 10 / 2
    torch.testing.assert_close(point, torch.full((2,), expected))
    assert point.is_contiguous()  # so that it survives Batch.rows and device moves like any other field


def test_the_point_sends_no_gradient():
    weight = torch.ones((), requires_grad=True)
    batch = batch_of([([1], [5]), ([2], [8])])
    point = reference_point(batch, lambda b: weight * b.completions.float(), lambda b: b.completions * 0.0)
    assert not point.requires_grad


def loss_of(ratios, labels, point, **options):
    rows = len(ratios)
    batch = replace(
        batch_of([([i], [1]) for i in range(rows)]),
        labels=torch.tensor(labels),
        ref_logprobs=torch.zeros(rows, 1),
        reference_point=torch.full((rows,), point),
    )
    config = KTO.Config(**options)
    terms = KTO.ALGORITHM.loss(Outputs(torch.tensor(ratios)[:, None]), batch, config)
    return {t.name: t.total.item() / batch.count()[t.unit].clamp(min=1).item() for t in terms}


def test_the_loss_is_half_the_weights_at_the_start_and_bounded_by_them():
    weights = {"desirable_weight": 2.0, "undesirable_weight": 0.5}
    assert loss_of([0.0, 0.0], [1.0, 0.0], 0.0, **weights)["loss/kto"] == pytest.approx((2 + 0.5) / 4)
    for far in (-1e4, 1e4):
        assert 0 <= loss_of([far, -far], [1.0, 0.0], 0.0, **weights)["loss/kto"] <= 1.25


def test_a_soft_label_is_between_the_two_classes():
    good, soft, bad = (loss_of([3.0], [label], 0.5)["loss/kto"] for label in (1.0, 0.25, 0.0))
    assert soft == pytest.approx(0.25 * good + 0.75 * bad)


def test_a_reference_point_below_zero_acts_like_zero_and_is_logged_as_it_is():
    below, zero = loss_of([1.0], [1.0], -2.0), loss_of([1.0], [1.0], 0.0)
    assert below["loss/kto"] == zero["loss/kto"]
    assert below["kl/reference_point"] == -2.0


def test_each_class_has_its_own_mean_reward():
    found = loss_of([1.0, 3.0, -5.0], [1.0, 1.0, 0.0], 0.0, beta=0.1)
    assert found["rewards/desirable"] == pytest.approx(0.2)
    assert found["rewards/undesirable"] == pytest.approx(-0.5)
    assert found["rewards/desirable_share"] == pytest.approx(2 / 3)
