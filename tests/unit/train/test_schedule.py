from __future__ import annotations

import pytest

from truing.train.schedule import lr_factor

KINDS = ["cosine", "linear", "constant"]


@pytest.mark.parametrize("schedule", KINDS)
@pytest.mark.parametrize("num_updates", [1, 2, 3, 10, 101])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.5, 0.99])
def test_every_update_of_a_run_moves_the_weights(schedule, num_updates, warmup):
    factors = [
        lr_factor(i, num_updates, schedule=schedule, warmup=warmup, min_ratio=0.0) for i in range(num_updates)
    ]
    assert all(0 < f <= 1 for f in factors)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert max(factors) == 1.0


def test_warm_up_climbs_in_equal_steps_and_cosine_is_half_way_in_the_middle():
    factors = [lr_factor(i, 20, schedule="cosine", warmup=0.2, min_ratio=0.1) for i in range(21)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[12] == pytest.approx(0.55)
    assert factors[20] == pytest.approx(0.1)


def test_linear_falls_in_equal_steps_to_its_minimum_and_stays():
    factors = [lr_factor(i, 4, schedule="linear", warmup=0.0, min_ratio=0.2) for i in range(7)]
    assert factors == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])


def test_constant_stays_at_the_peak():
    assert {lr_factor(i, 9, schedule="constant", warmup=0.0, min_ratio=0.0) for i in range(9)} == {1.0}


def test_wrong_arguments_raise():
    with pytest.raises(ValueError, match="num_updates"):
        lr_factor(0, 0, schedule="linear", warmup=0.0, min_ratio=0.0)
    with pytest.raises(Exception, match="step"):  # the shape checker may come before our own message
        lr_factor(0, 1, schedule="step", warmup=0.0, min_ratio=0.0)
