"""Answers of one value are one answer, and nothing else is."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.metrics.answers import answer_ids, mentions_answer, normalize_answer

SAME = [
    [
        "1000",
        "1,000",
        "1000.0",
        "+1000.",
        r"\boxed{1000}",
        "$1000",
        "$1000$",
        r"\$1{,}000.00",
        r"$\boxed{\$1,000}$",
        "1000 dollars",
        "$1,000 USD",
        "1e3",
        " **1000** ",
        r"\(1000\)",
        r"\text{1000}",
    ],
    ["-5", "\N{MINUS SIGN}5", "- 5", "-$5", "$-5.0"],
    ["1/2", "0.5", ".50", "2/4", r"\frac{1}{2}", r"$\dfrac{3}{6}$", "0.5/1"],
    ["-3/2", "-1.5", r"-\frac{3}{2}", "-1 1/2", r"-1\tfrac{1}{2}"],
    ["50%", "50 %", r"\boxed{50\%}", "50.0 percent", "100/2 %"],
    ["Monday", " monday ", r"\text{Monday}.", "**MONDAY**"],
    ["x = 1", "X  =\n1"],
    ["2469135/2", "1,234,567.50"],
]
DIFFERENT = [
    "50",
    "50%",
    "0.5",
    "5",
    "-5",
    "1/3",
    "0.333",
    "0.3333333333333333",
    "1,5",
    "1,0000",
    "10,000,00",
    "1 000",
    "12 apples",
    "12 oranges",
    "12",
    "x = 12",
    "12 or 13",
    "$12 and $13",
    r"\boxed{12} or \boxed{13}",
    "1/0",
    "1/2/3",
    "1_000",
    "1e500",
    "nan",
    "inf",
    "\u0661",
    "",
    "-",
    "$",
    "%",
    "...",
]


@pytest.mark.parametrize("spellings", SAME, ids=lambda spellings: spellings[0])
def test_spellings_of_one_value_are_one_answer(spellings: list[str]) -> None:
    assert set(map(normalize_answer, spellings)) == {normalize_answer(spellings[0])}


def test_other_answers_stay_apart() -> None:
    for answers in (DIFFERENT, [spellings[0] for spellings in SAME]):
        assert len(set(map(normalize_answer, answers))) == len(answers)


@given(numerator=st.integers(-(10**20), 10**20), denominator=st.integers(1, 10**6))
def test_fractions_are_compared_exactly(numerator: int, denominator: int) -> None:
    value = Fraction(numerator, denominator)
    assert normalize_answer(f"{numerator}/{denominator}") == str(value)
    assert normalize_answer(f"{numerator * 7} / {denominator * 7}") == str(value)
    assert normalize_answer(rf"\boxed{{\frac{{{numerator}}}{{{denominator}}}}}") == str(value)


@given(number=st.integers(-(10**20), 10**20), decimals=st.integers(0, 5))
def test_numbers_with_separators_and_zeros(number: int, decimals: int) -> None:
    for text in (f"{number:,}.{'0' * decimals}", f"${number}$", f"{number:,} dollars"):
        assert normalize_answer(text) == str(number)
    assert normalize_answer(f"{number}%") == f"{number}%"


@given(text=st.text() | st.text(alphabet="$\\{}boxed12.,/% +-", max_size=20))
def test_a_normalized_answer_is_itself(text: str) -> None:
    once = normalize_answer(text)
    assert normalize_answer(once) == once


def test_ids_number_the_distinct_answers() -> None:
    assert answer_ids(["7", "8", "7.0", "x", "8"]).tolist() == [0, 1, 0, 2, 1]
    assert answer_ids([]).tolist() == []


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("So 6 x 7 = 42.", "42", True),
        ("So 6 x 7 = 42.", "42.0", True),
        ("So 6 x 7 = 42.", "2", False),
        ("It costs $1,250.50 in all", "1250.5", True),
        ("12 - 5 = 7", "-5", False),
        ("x = -5", "-5", True),
        ("half of it, 3/6", "0.5", True),
        ("6 / 2 = 3", "6", True),
        (r"which is \frac{1}{4} of it", "0.25", True),
        ("a share of 50 %", "50%", True),
        ("a share of 50 %", "50", False),
        ("he has 50", "50%", False),
        ("The day is a  Monday.", "monday", True),
        ("The day is a Monday.", "Tuesday", False),
        ("anything", "", False),
    ],
)
def test_answers_that_a_text_mentions(text: str, answer: str, expected: bool) -> None:
    assert mentions_answer(text, answer) is expected
