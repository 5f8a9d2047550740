"""Every generator of `truing/data/`: rows from a seed, as many as asked for, that become records."""

from __future__ import annotations

import inspect

import pytest

from truing import plugins
from truing.data import columns
from truing.data.readers import SourceRow

GENERATORS = [n for n in plugins.names("data") if hasattr(plugins.load("data", n), "rows")]


def test_there_is_a_generator() -> None:
    assert "word_problems" in GENERATORS


@pytest.mark.parametrize("name", GENERATORS)
def test_rows_are_a_function_of_the_seed(name: str) -> None:
    module = plugins.load("data", name)
    assert list(module.rows(count=20, seed=3)) == list(module.rows(count=20, seed=3))
    assert list(module.rows(count=20, seed=3)) != list(module.rows(count=20, seed=4))
    assert len(list(module.rows(count=7, seed=3))) == 7


@pytest.mark.parametrize("name", GENERATORS)
def test_fewer_rows_are_the_first_of_more(name: str) -> None:
    module = plugins.load("data", name)
    assert list(module.rows(count=20, seed=0))[:5] == list(module.rows(count=5, seed=0))


@pytest.mark.parametrize("name", GENERATORS)
def test_rows_are_prompts_and_options_are_keywords(name: str) -> None:
    module = plugins.load("data", name)
    row = SourceRow(next(iter(module.rows(count=1, seed=0))), name, 1)
    assert columns.prompt(row)[-1].role == "user"
    kinds = [p.kind for p in list(inspect.signature(module.rows).parameters.values())[2:]]
    assert set(kinds) <= {inspect.Parameter.KEYWORD_ONLY}
    assert module.__doc__ and module.rows.__doc__
