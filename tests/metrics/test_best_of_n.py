"""Picking among solutions: cases done by hand, and what must hold whatever the verifier says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.metrics import best_of_n
from mv_lightning.metrics.best_of_n import POLICIES, gains_over_majority, solve_rates
from mv_lightning.metrics.consensus import Consensus


def rates(
    answers: list[str],
    labels: list[bool],
    odds: list[float],
    most: int,
    groups: list[int] | None = None,
    stack: Consensus | None = None,
) -> dict:  # type: ignore[type-arg]
    rates = solve_rates(
        np.array(groups or [0] * len(labels)),
        answers,
        np.array(labels),
        np.array(odds),
        most,
        stack,
    )
    return {policy: rates_QN.mean(axis=0).tolist() for policy, rates_QN in rates.items()}


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
    found = solve_rates(*rows, 2, Consensus(1.5, 2.0, -0.5))
    assert tuple(found) == POLICIES
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
    found = solve_rates(*rows[:3], log_odds_N, 2)
    for question, group in enumerate(np.unique(question_ids_N)):
        ranked = labels_N[question_ids_N == group][np.argsort(-log_odds_N[question_ids_N == group])]
        many, right = len(ranked), int(ranked.sum())
        for size in (1, 2):
            ways = math.comb(many, size)
            best = (
                sum(math.comb(many - 1 - place, size - 1) for place in np.flatnonzero(ranked))
                / ways
            )
            assert found["best"][question, size - 1] == pytest.approx(best)
            oracle = 1 - math.comb(many - right, size) / ways
            assert found["oracle"][question, size - 1] == pytest.approx(oracle)


def test_a_question_by_hand() -> None:
    """Two wrong of three agree; the verifier is sure of the right one."""
    found = rates(["7", "7", "9"], [False, False, True], [-1.0, -1.0, 2.0], most=3)
    assert found["random"] == pytest.approx([1 / 3] * 3)
    assert found["majority"] == pytest.approx(
        [1 / 3, 1 / 3, 0]
    )  # of two different answers, either wins
    assert found["weighted"] == pytest.approx([1 / 3, 2 / 3, 1])  # 0.88 against 2 x 0.27
    assert found["best"] == found["oracle"] == pytest.approx([1 / 3, 2 / 3, 1])


def test_gains_are_paired_differences_from_the_majority() -> None:
    """Both solve half of the questions; `best` always one more than the majority, in pairs."""
    half_Q = np.array([0.0, 1.0] * 20)
    majority_Q = 0.5 * half_Q
    solved = {"random": half_Q, "majority": majority_Q, "best": majority_Q + 0.25}
    gains = gains_over_majority({**solved, "stack": half_Q, "oracle": np.ones(40)})
    assert gains["best"] == {"value": 0.25, "interval": [0.25, 0.25]}
    assert gains["stack"]["value"] == 0.25
    assert gains["stack"]["interval"][0] < 0.25 < gains["stack"]["interval"][1]
    assert list(gains_over_majority(solved)) == ["best"]


def test_answers_are_compared_by_value() -> None:
    """Three spellings of 1000 outvote two of 7."""
    found = rates(
        ["$1,000", "1000.0", "\\boxed{1000}", "7", "7.00"], [True] * 3 + [False] * 2, [0.0] * 5, 5
    )
    assert found["majority"][4] == 1 and found["weighted"][4] == 1


@pytest.mark.parametrize(("agreement_weight", "all_three"), [(1.5, 0), (2.0, 2 / 3), (2.5, 1)])
def test_a_stack_by_hand(agreement_weight: float, all_three: float) -> None:
    """A lone answer of log-odds 1 against two that agree: weight / 2. In pairs, none agree."""
    case = (["9", "7", "7"], [False, True, True], [1.0, 0.0, 0.0], 3)
    found = rates(*case, stack=Consensus(1.0, agreement_weight, 5.0))
    assert found["stack"] == pytest.approx([2 / 3, 1 / 3, all_three])
    assert found["best"] == pytest.approx([2 / 3, 1 / 3, 0])


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
    for most, questions in ((3, 1), (2, 2)):
        found = solve_rates(question_ids_N, ["1"] * 5, labels_N, np.zeros(5), most)
        assert {rates_QN.shape for rates_QN in found.values()} == {(questions, most)}
        assert "stack" not in found
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
    exact = np.array(list(solve_rates(*rows, 6).values()))
    monkeypatch.setattr(best_of_n, "SUBSETS", 200)
    drawn, again = (np.array(list(solve_rates(*rows, 6).values())) for _ in range(2))
    assert not np.array_equal(exact, drawn) and np.array_equal(drawn, again)
    assert np.abs(exact - drawn).max() < 0.12
