from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.verifiers._answers import equal_quantities, is_prose, last_boxed, quantity, same_words, split_unit


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("\\boxed{7}", "7"),
        ("a \\boxed{1} b \\boxed{ 2 } c", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed{\\boxed{3}}", "3"),
        ("\\boxed{7", None),
        ("\\boxed{1} \\boxed{2", None),
        ("boxed 7", None),
        ("\\boxed{}", ""),
    ],
)
def test_last_boxed(text: str, box: str | None) -> None:
    assert last_boxed(text) == box


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("7", Fraction(7), ""),
        ("-7", Fraction(-7), ""),
        ("\u22127", Fraction(-7), ""),
        ("1,234,567", Fraction(1234567), ""),
        ("1{,}234.5", Fraction("1234.5"), ""),
        ("0.5", Fraction(1, 2), ""),
        (".5", Fraction(1, 2), ""),
        ("7.", Fraction(7), ""),
        ("3/4", Fraction(3, 4), ""),
        ("1 1/2", Fraction(3, 2), ""),
        ("-\\dfrac{1}{2}", Fraction(-1, 2), ""),
        ("2\\frac{1}{2}", Fraction(5, 2), ""),
        ("$\\$5$", Fraction(5), "$"),
        ("5 dollars", Fraction(5), "$"),
        ("50\\%", Fraction(50), "%"),
        ("90^\\circ", Fraction(90), "°"),
        ("12 apples", Fraction(12), "apple"),
        ("3\\text{ cm}^2", Fraction(3), "cm2"),
        ("3 hours", Fraction(3), "hour"),
        ("3 h", Fraction(3), "hour"),
    ],
)
def test_quantities(text: str, value: Fraction, unit: str) -> None:
    found = quantity(text)
    assert found is not None
    assert (found.value, found.unit) == (value, unit)


@pytest.mark.parametrize(
    "text", ["", "x", "3x", "1/0", "7 or 8", "7, 8", "1,23", "2^3", "7 8", "\\frac{1}{0}", "9" * 500]
)
def test_what_is_no_plain_quantity(text: str) -> None:
    assert quantity(text) is None


@given(st.fractions(max_denominator=1000), st.fractions(max_denominator=1000))
def test_fractions_are_compared_exactly(a: Fraction, b: Fraction) -> None:
    x, y = quantity(f"{a.numerator}/{a.denominator}"), quantity(f"{b.numerator}/{b.denominator}")
    assert x is not None and y is not None
    assert equal_quantities(x, y, 1e-6) == (a == b)


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("1000000", "1000001", False),
        ("0.333333", "1/3", False),
        ("0.33333333", "1/3", True),
        ("1000000.0", "1000000.5", True),
        ("0.0000001", "0.0000002", False),
        ("0", "0.0000001", False),
        ("3 m", "3 cm", False),
        ("3 m", "3", True),
        ("3", "3 m", True),
        ("3 m", "3 meters", True),
        ("4 cm^2", "4 cm", False),
        ("50%", "50", True),
        ("50%", "0.5", True),
        ("0.5", "50%", True),
        ("50%", "5", False),
        ("50%", "5000%", False),
    ],
)
def test_equality_of_quantities(gold: str, answer: str, equal: bool) -> None:
    a, b = quantity(gold), quantity(answer)
    assert a is not None and b is not None
    assert equal_quantities(a, b, 1e-6) is equal


def test_units_of_expressions_and_words() -> None:
    assert split_unit("3\\sqrt{2}\\,\\text{ cm}^2") == ("3\\sqrt{2}", "cm2")
    assert split_unit("$x+1$") == ("x+1", "")
    assert is_prose("Paris") and is_prose("\\text{odd}") and is_prose("no")
    assert not is_prose("abc") and not is_prose("\\text{7}") and not is_prose("\\text{(A)}")
    assert same_words("\\text{odd}", "Odd") and not same_words("listen", "silent")
