"""What every term of `truing/terms/` promises; a new file is tested because it exists."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truing import plugins
from truing.config import TermOptions
from truing.terms import Written
from truing.types import Completion

NAMES = plugins.names("terms")
LENGTHS = st.lists(st.integers(0, 300), min_size=1, max_size=8)


def written(lengths: list[int], group: int = 0) -> list[Written]:
    return [
        Written(
            Completion(tuple(i % 7 for i in range(n)), "x" * n, (0.0,) * n, "stop"), group, {"answer": n % 2}
        )
        for n in lengths
    ]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS)
def test_a_term_gives_each_completion_a_finite_number(name: str, lengths: list[int]) -> None:
    module = plugins.load("terms", name)
    found = module.measure(written(lengths), module.Config())
    assert len(found) == len(lengths)
    assert all(isinstance(x, float) and math.isfinite(x) for x in found)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(lengths=LENGTHS)
def test_a_term_says_whether_other_completions_matter(name: str, lengths: list[int]) -> None:
    module = plugins.load("terms", name)
    if not module.Config.batch_wide:
        alone = [module.measure(written([n]), module.Config())[0] for n in lengths]
        assert module.measure(written(lengths), module.Config()) == alone


@pytest.mark.parametrize("name", NAMES)
def test_a_term_is_documented_and_its_config_is_light(name: str) -> None:
    module = plugins.load("terms", name)
    assert module.__doc__ and module.measure.__doc__ and issubclass(module.Config, TermOptions)
    assert all(f.description for f in module.Config.model_fields.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 60, 150])
def test_up_to_its_silence_a_term_says_the_same(name: str, length: int) -> None:
    module = plugins.load("terms", name)
    if length <= module.Config().silent_up_to():
        assert len({*module.measure(written([1, length]), module.Config())}) == 1
