"""Rows are split into turns of whole questions, in the order of the source or by length."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.predict import agreement_with_text, split_into_turns

QUESTION_IDS_N = np.array([5, 2, 5, 2, 7, 7, 1, 1])


def test_questions_stay_whole_and_in_the_order_of_their_first_rows() -> None:
    assert [turn.tolist() for turn in split_into_turns(QUESTION_IDS_N, size=4, count=2)] == [
        [0, 2, 1, 3],
        [4, 5, 6, 7],
    ]
    assert [turn.tolist() for turn in split_into_turns(QUESTION_IDS_N, size=2, count=3)] == [
        [0, 2],
        [1, 3],
        [4, 5],
    ]


def test_by_length_only_the_chosen_questions_are_sorted() -> None:
    lengths_N = np.array([30, 10, 30, 10, 20, 20, 1, 1])
    assert [turn.tolist() for turn in split_into_turns(QUESTION_IDS_N, 2, 3, lengths_N)] == [
        [1, 3],
        [4, 5],
        [0, 2],
    ]


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="got 8 in all"):
        split_into_turns(QUESTION_IDS_N, size=3, count=3)


def test_generated_verdicts_are_compared_with_log_odds() -> None:
    log_odds_N = np.array([1.0, -1.0, 2.0, -2.0, 0.5])
    verdicts = ["True", "True", None, "False", "False"]
    assert agreement_with_text(log_odds_N, verdicts) == {"rows": 5, "malformed": 1, "flips": 2}
