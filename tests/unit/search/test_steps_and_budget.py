"""Where steps end in ids, and what tokens cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.errors import ConfigError
from truing.model.forest import plant
from truing.model.load import load_tokenizer
from truing.search._budget import Spent, distinct_tokens
from truing.search._steps import Grammar, grammar_of, step_ends, step_texts

LETTERS = {1: "a", 2: "\n", 3: "b.\n", 4: " "}
GRAMMAR = Grammar(
    frozenset({0}), frozenset({2, 3}), frozenset({2, 4}), lambda ids: "".join(LETTERS.get(i, "") for i in ids)
)


@pytest.mark.parametrize(
    ("tokens", "ends", "texts"),
    [
        ((1, 2, 1, 3, 1, 0), (2, 4, 5), ["a", "ab.", "a"]),
        ((1, 2, 0), (2,), ["a"]),
        ((1, 2, 2, 4, 2, 1), (2, 6), ["a", "a"]),
        ((2, 2, 1), (3,), ["a"]),
        ((1, 1), (2,), ["aa"]),
        ((0,), (), []),
        ((2, 4, 0), (), []),
        ((), (), []),
    ],
)
def test_steps_end_with_the_separator_and_blank_ones_are_none(tokens, ends, texts) -> None:
    assert step_ends(tokens, GRAMMAR) == ends
    assert step_texts(tokens, GRAMMAR) == texts


@given(st.lists(st.sampled_from([1, 2, 3, 4]), max_size=12))
def test_more_tokens_never_move_the_end_of_a_step_that_was_closed(tokens) -> None:
    whole = step_ends(tokens, GRAMMAR)
    for cut in range(len(tokens) + 1):
        part = step_ends(tokens[:cut], GRAMMAR)
        closed = [end for end in part if tokens[end - 1] in GRAMMAR.separators]
        assert list(whole[: len(closed)]) == closed


def test_a_tokenizer_says_which_ids_end_a_step(tiny_model) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    grammar = grammar_of(tokenizer, [2], "\n")
    (newline,) = tokenizer.encode("\n")
    assert grammar.separators == {newline}
    tokens = (*tokenizer.encode("one\n\ntwo\n"), 2)
    assert step_texts(tokens, grammar) == ["one", "two"]
    assert grammar.text(tokens) == "one\n\ntwo\n"
    with pytest.raises(ConfigError, match="no token of the vocabulary ends with it"):
        grammar_of(tokenizer, [2], "\n\n")


rows = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=8)


@given(rows)
def test_shared_beginnings_cost_once_as_in_the_forest(found) -> None:
    assert distinct_tokens(found) == plant(found).num_tokens


def test_a_purse_pays_up_to_its_end_and_no_further() -> None:
    spent = Spent(budget=10)
    assert spent.generate(7) and spent.score(2) and not spent.over
    assert not spent.generate(5)
    assert (spent.generated, spent.scored, spent.total, spent.over) == (8, 2, 10, True)
    assert spent.score(0) and not spent.score(1)
    free = Spent()
    assert free.generate(10**9) and not free.over
