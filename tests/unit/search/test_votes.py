"""Answers are one where the verifier says so, and what has no answer has no vote."""

from __future__ import annotations

import pytest

from truing.errors import ConfigError
from truing.search._records import Path
from truing.search._votes import answer_classes, choose, reader_of
from truing.verifiers import exact_match, math_answer, repetition

MATH = reader_of(math_answer, math_answer.Config())


def boxed(*answers: str) -> list[str]:
    return [f"so \\boxed{{{answer}}}" for answer in answers]


def test_equal_answers_vote_together_whatever_they_look_like() -> None:
    texts = boxed("1/2", "7", "0.5", "\\frac{2}{4}", "50\\%", "7.0")
    assert answer_classes(texts, MATH) == [0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    "broken", ["no answer", "\\boxed{", "\\boxed{}", "\\boxed{\\frac{}", f"\\boxed{{{'9' * 600}}}"]
)
def test_what_has_no_answer_never_votes(broken: str) -> None:
    texts = [broken, broken, broken, *boxed("3", "4", "4")]
    assert answer_classes(texts, MATH) == [None, None, None, 0, 1, 1]
    paths = [Path((i,), "stop") for i in range(len(texts))]
    chosen = choose(paths, "majority", answer_classes(texts, MATH))
    assert chosen is not None and chosen.tokens == (4,)


def test_no_answer_at_all_chooses_none() -> None:
    paths = [Path((i,), "stop") for i in range(3)]
    assert choose(paths, "majority", [None] * 3) is None
    assert choose(paths, "weighted", [0, 0, 1]) is None, "none was scored"
    assert choose(paths, "best") is None
    assert choose([], "best") is None


def test_weights_outvote_numbers_and_the_best_of_the_winners_is_shown() -> None:
    values = (0.2, 0.3, 0.1, 0.5, 0.45)
    paths = [Path((i,), "stop", (v,), v) for i, v in enumerate(values)]
    classes = [0, 0, 0, 1, 1]
    assert choose(paths, "majority", classes).tokens == (1,)  # type: ignore[union-attr]
    assert choose(paths, "weighted", classes).tokens == (3,)  # type: ignore[union-attr]
    assert choose(paths, "best").tokens == (3,)  # type: ignore[union-attr]


def test_an_unscored_path_weighs_nothing() -> None:
    paths = [Path((0,), "stop"), Path((1,), "stop"), Path((2,), "stop", (0.1,), 0.1)]
    assert choose(paths, "weighted", [0, 0, 1]).tokens == (2,)  # type: ignore[union-attr]


def test_an_exact_match_votes_by_its_own_rules() -> None:
    strict = reader_of(exact_match, exact_match.Config(where="last_line", ignore_case=False))
    loose = reader_of(exact_match, exact_match.Config(where="last_line"))
    texts = ["well\nParis", "hm\n paris ", "London", ""]
    assert answer_classes(texts, strict) == [0, 1, 2, None]
    assert answer_classes(texts, loose) == [0, 0, 1, None]


def test_a_verifier_without_answers_cannot_vote() -> None:
    with pytest.raises(ConfigError, match="'repetition' has no answer"):
        reader_of(repetition, repetition.Config())
