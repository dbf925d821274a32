"""Picking among solutions: cases done by hand, and what must hold whatever the verifier says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.metrics import best_of_n
from mv_lightning.metrics.best_of_n import POLICIES, solve_rates


def rates(
    answers: list[str],
    labels: list[bool],
    odds: list[float],
    most: int,
    groups: list[int] | None = None,
) -> dict:  # type: ignore[type-arg]
    found = solve_rates(
        np.array(groups or [0] * len(labels)), answers, np.array(labels), np.array(odds), most
    )
    return {policy: found.mean(axis=0)[:, place].tolist() for place, policy in enumerate(POLICIES)}


@st.composite
def questions(draw: st.DrawFn) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Questions of two to five solutions in mixed order, few answers, ties among the log-odds."""
    sizes = draw(st.lists(st.integers(2, 5), min_size=1, max_size=5))
    rows = sum(sizes)
    order = np.random.default_rng(draw(st.integers(0, 100))).permutation(rows)
    question_ids_N = np.repeat(np.arange(len(sizes)), sizes)[order]
    answers = draw(st.lists(st.sampled_from(["1", "2", "3"]), min_size=rows, max_size=rows))
    labels_N = np.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    log_odds_N = np.array(
        draw(st.lists(st.integers(-2, 2), min_size=rows, max_size=rows)), dtype=float
    )
    return question_ids_N, answers, labels_N, log_odds_N


@given(rows=questions())
def test_what_always_holds(rows: tuple[np.ndarray, list[str], np.ndarray, np.ndarray]) -> None:
    question_ids_N, _, labels_N, _ = rows
    found = dict(zip(POLICIES, np.moveaxis(solve_rates(*rows, most=2), 2, 0), strict=True))
    for rate in found.values():
        assert (found["oracle"] >= rate - 1e-12).all()
        assert rate[:, 0] == pytest.approx(found["random"][:, 0])
    share = [labels_N[question_ids_N == group].mean() for group in np.unique(question_ids_N)]
    assert found["random"] == pytest.approx(np.column_stack([share, share]))
    assert (np.diff(found["oracle"], axis=1) >= 0).all()


@given(rows=questions())
def test_best_of_n_is_its_closed_form(
    rows: tuple[np.ndarray, list[str], np.ndarray, np.ndarray],
) -> None:
    question_ids_N, _, labels_N, log_odds_N = rows
    log_odds_N = log_odds_N + np.arange(len(log_odds_N)) / 100  # no ties
    found = solve_rates(*rows[:3], log_odds_N, most=2)
    for question, group in enumerate(np.unique(question_ids_N)):
        ranked = labels_N[question_ids_N == group][np.argsort(-log_odds_N[question_ids_N == group])]
        many, right = len(ranked), int(ranked.sum())
        for size in (1, 2):
            ways = math.comb(many, size)
            best = (
                sum(math.comb(many - 1 - place, size - 1) for place in np.flatnonzero(ranked))
                / ways
            )
            assert found[question, size - 1, POLICIES.index("best")] == pytest.approx(best)
            oracle = 1 - math.comb(many - right, size) / ways
            assert found[question, size - 1, POLICIES.index("oracle")] == pytest.approx(oracle)


def test_a_question_by_hand() -> None:
    """Two wrong of three agree; the verifier is sure of the right one."""
    found = rates(["7", "7", "9"], [False, False, True], [-1.0, -1.0, 2.0], most=3)
    assert found["random"] == pytest.approx([1 / 3] * 3)
    assert found["majority"] == pytest.approx(
        [1 / 3, 1 / 3, 0]
    )  # of two different answers, either wins
    assert found["weighted"] == pytest.approx([1 / 3, 2 / 3, 1])  # 0.88 against 2 x 0.27
    assert found["best"] == found["oracle"] == pytest.approx([1 / 3, 2 / 3, 1])


def test_ties_are_drawn_by_lot() -> None:
    found = rates(["1", "2"], [True, False], [0.5, 0.5], most=2)
    assert found["best"] == found["majority"] == found["weighted"] == pytest.approx([0.5, 0.5])


def test_answers_are_compared_without_case_and_white_space() -> None:
    found = rates(["X = 1", " x  =\n1", "2", "3"], [True, True, False, False], [0.0] * 4, most=4)
    assert found["majority"][3] == 1


def test_questions_with_fewer_solutions_are_left_out() -> None:
    question_ids_N, labels_N = (
        np.array([5, 5, 9, 9, 9]),
        np.array([True, True, False, False, False]),
    )
    assert solve_rates(question_ids_N, ["1"] * 5, labels_N, np.zeros(5), 3).shape == (
        1,
        3,
        len(POLICIES),
    )
    assert solve_rates(question_ids_N, ["1"] * 5, labels_N, np.zeros(5), 2).shape == (
        2,
        2,
        len(POLICIES),
    )
    for most in (0, 4):
        with pytest.raises(ValueError, match="from 1 to 3"):
            solve_rates(question_ids_N, ["1"] * 5, labels_N, np.zeros(5), most)


def test_drawn_subsets_come_near_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = (
        np.zeros(12, dtype=int),
        list("112233445566"),
        rng.random(12) < 0.4,
        rng.normal(size=12),
    )
    exact = solve_rates(*rows, most=6)
    monkeypatch.setattr(best_of_n, "SUBSETS", 200)
    drawn = solve_rates(*rows, most=6)
    assert not np.array_equal(exact, drawn) and np.array_equal(drawn, solve_rates(*rows, most=6))
    assert np.abs(exact - drawn).max() < 0.12
