"""IDs match by spelling, numbers also by value, and nothing matches by position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.artifacts.row_ids import match_ids

IDS = st.lists(
    st.sampled_from(["1", "1.0", "01", "-3", "a", "A", "1e3", "", "x 1"]) | st.text(max_size=3)
)


@given(ids=IDS, seed=st.randoms())
def test_a_permutation_is_found(ids: list[str], seed: object) -> None:
    expected = list(dict.fromkeys(ids))
    order = list(range(len(expected)))
    seed.shuffle(order)  # type: ignore[attr-defined]
    match = match_ids([expected[position] for position in order], expected)
    assert match.positions_N.tolist() == order and not match.differences("a", "b")


@given(numbers=st.lists(st.integers(-(10**25), 10**25), unique=True), seed=st.randoms())
def test_numbers_match_in_another_spelling(numbers: list[int], seed: object) -> None:
    """Of any size: as floats, 2^53 and its successor would be one."""
    shuffled = list(numbers)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    match = match_ids([f"{number}.00" for number in shuffled], [str(number) for number in numbers])
    assert [numbers[position] for position in match.positions_N] == shuffled
    assert not match.differences("a", "b")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", "A"),
        ("a", " a"),
        ("1e3", "1000"),
        ("1,000", "1000"),
        ("1_0", "10"),
        ("\u0661", "1"),
        ("nan", "NaN"),
        ("1.5", "1"),
    ],
)
def test_what_is_no_number_matches_only_itself(given: str, expected: str) -> None:
    match = match_ids([given], [expected])
    assert match.unknown == [given] and match.missing == [expected]


def test_a_value_of_two_expected_ids_matches_neither() -> None:
    match = match_ids(["7.0", "07", "8.0"], ["7", "07", "8"])
    assert match.positions_N.tolist() == [-1, 1, 2]
    assert match.unknown == ["7.0"] and match.missing == ["7"] and not match.repeated


def test_two_spellings_of_one_number_are_a_repetition() -> None:
    match = match_ids(["7", "7.0", "8", "x", "x"], ["7", "8", "9"])
    assert match.repeated == ["7", "7.0", "x"] and match.missing == ["9"]
    assert match.differences("one", "other") == (
        "3 IDs occur several times in one: 7, 7.0, x; 1 IDs of one are not in other: x; "
        "1 IDs of other are not in one: 9"
    )


def test_nothing_matches_nothing() -> None:
    assert match_ids([], []).positions_N.dtype == np.int64
