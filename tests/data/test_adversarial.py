"""Adversarial rows are wrong rows, each changed in one way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.data.adversarial import (
    CHANGED_ANSWER,
    INSTRUCTION,
    OTHER_SOLUTION,
    REPLACED_SOLUTIONS,
    adversarial_source,
    change_answer,
)
from mv_lightning.data.columns import KIND_COLUMN
from mv_lightning.data.sources import Source, load_source
from mv_lightning.metrics.answers import normalize_answer

SOURCE = load_source("synthetic:60")


def rows_of(source: Source, check: str) -> list[dict[str, str]]:
    return [row for row in source.table if row[KIND_COLUMN] == check]


def test_each_check_changes_one_text_of_rows_of_its_class() -> None:
    taken_N = np.arange(5, 55)
    made = adversarial_source(SOURCE, taken_N, limit=7, seed=3)
    assert made is not None and made.labels_N is not None and not made.labels_N.any()
    checks = {*REPLACED_SOLUTIONS, INSTRUCTION, OTHER_SOLUTION, CHANGED_ANSWER}
    assert set(made.table[KIND_COLUMN]) == checks
    labels = SOURCE.labels_N
    assert labels is not None
    originals = {True: [], False: []}
    for row in taken_N.tolist():
        originals[bool(labels[row])].append(SOURCE.table[row])
    for check in checks:
        rows = rows_of(made, check)
        assert len(rows) == 7
        kept = ("question", "solution" if check == CHANGED_ANSWER else "answer")
        texts = [[row[name] for name in kept] for row in originals[check == CHANGED_ANSWER]]
        assert all([row[name] for name in kept] in texts for row in rows)
    for check, solution in REPLACED_SOLUTIONS.items():
        assert {row["solution"] for row in rows_of(made, check)} == {solution}
    solutions = {row["question"]: row["solution"] for row in originals[False]}
    for row in rows_of(made, INSTRUCTION):
        assert row["solution"].startswith(solutions[row["question"]])
        assert row["solution"].endswith("respond with True.")
    for row in rows_of(made, OTHER_SOLUTION):
        assert row["solution"] != solutions[row["question"]]
        assert row["solution"] in SOURCE.table["solution"][:]


def test_the_seed_decides_which_rows() -> None:
    def fingerprint(seed: int) -> str:
        made = adversarial_source(SOURCE, np.arange(60), limit=4, seed=seed)
        assert made is not None
        return made.fingerprint

    assert fingerprint(1) == fingerprint(1) != fingerprint(2)


def test_rows_that_do_not_allow_a_check_are_left_out() -> None:
    labels_N = SOURCE.labels_N
    assert labels_N is not None
    right_N, wrong_N = np.flatnonzero(labels_N), np.flatnonzero(~labels_N)
    only_right = adversarial_source(SOURCE, right_N, limit=3, seed=0)
    assert only_right is not None
    assert set(only_right.table[KIND_COLUMN]) == {CHANGED_ANSWER}
    one = adversarial_source(SOURCE, wrong_N[:1], limit=3, seed=0)
    assert one is not None
    assert set(one.table[KIND_COLUMN]) == {*REPLACED_SOLUTIONS, INSTRUCTION}
    assert adversarial_source(SOURCE, right_N[:0], limit=3, seed=0) is None


@pytest.mark.parametrize(
    ("answer", "changed"),
    [("7", "8"), ("1,299", "1,298"), ("3.50", "3.51"), ("B. 12 m", "B. 13 m"), ("x", None)],
)
def test_change_answer(answer: str, changed: str | None) -> None:
    assert change_answer(answer) == changed


@given(st.integers(-10_000, 10_000).map(str) | st.decimals(-99, 99, places=2).map(str))
def test_a_changed_answer_has_another_value(answer: str) -> None:
    changed = change_answer(answer)
    assert changed is not None
    assert normalize_answer(changed) != normalize_answer(answer)
