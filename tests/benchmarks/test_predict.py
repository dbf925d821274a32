"""Rows are dealt to shares of whole questions, in the order of the source or by length."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.predict import shares

GROUPS_N = np.array([5, 2, 5, 2, 7, 7, 1, 1])


def test_questions_stay_whole_and_in_the_order_of_their_first_rows() -> None:
    assert [share.tolist() for share in shares(GROUPS_N, size=4, count=2)] == [
        [0, 2, 1, 3],
        [4, 5, 6, 7],
    ]
    assert [share.tolist() for share in shares(GROUPS_N, size=2, count=3)] == [
        [0, 2],
        [1, 3],
        [4, 5],
    ]


def test_by_length_only_the_chosen_questions_are_sorted() -> None:
    lengths_N = np.array([30, 10, 30, 10, 20, 20, 1, 1])
    assert [share.tolist() for share in shares(GROUPS_N, 2, 3, lengths_N)] == [
        [1, 3],
        [4, 5],
        [0, 2],
    ]


def test_too_few_rows_are_told() -> None:
    with pytest.raises(ValueError, match="take fewer"):
        shares(GROUPS_N, size=3, count=3)
