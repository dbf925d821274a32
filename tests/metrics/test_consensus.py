"""Agreement counts the siblings; the stack uses it as far as validation supports it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.metrics.consensus import (
    Consensus,
    NoConsensusError,
    agreement,
    compare,
    fit_consensus,
)


def solutions(questions: int, seed: int, noise: float = 2.0) -> tuple[np.ndarray, ...]:
    """Five solutions a question: right ones agree, wrong ones seldom; noisy log-odds."""
    rng = np.random.default_rng(seed)
    question_ids_N = np.repeat(np.arange(questions), 5)
    difficulty_N = np.repeat(rng.random(questions), 5)
    labels_N = rng.random(len(question_ids_N)) > difficulty_N
    answers_N = np.where(labels_N, 0, rng.integers(1, 6, len(labels_N)))
    log_odds_N = np.where(labels_N, 1.0, -1.0) + noise * rng.normal(size=len(labels_N))
    agreement_N = agreement(question_ids_N, [str(answer) for answer in answers_N])
    return labels_N, log_odds_N, agreement_N, question_ids_N


def test_agreement_by_hand() -> None:
    answers = ["$10", "10.0", "x", "10", "3", "10"]
    shares_N = agreement(np.array([4, 4, 4, 4, 9, 7]), answers)
    assert shares_N[:4].tolist() == [2 / 3, 2 / 3, 0, 2 / 3]
    assert np.isnan(shares_N[4:]).all()


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["1", "1.0", "2", "x"])), max_size=30
    )
)
def test_agreement_is_the_share_of_the_others(rows: list[tuple[int, str]]) -> None:
    questions = [question for question, _ in rows]
    values = [answer.removesuffix(".0") for _, answer in rows]
    expected = []
    for i, question in enumerate(questions):
        others = [j for j in range(len(rows)) if j != i and questions[j] == question]
        same = [values[j] == values[i] for j in others]
        expected.append(sum(same) / len(same) if same else math.nan)
    found_N = agreement(np.array(questions, dtype=int), [answer for _, answer in rows])
    assert found_N.tolist() == pytest.approx(expected, nan_ok=True)


def test_the_fit_is_the_minimum_of_the_penalised_loss() -> None:
    labels_N, log_odds_N, agreement_N, _ = solutions(40, 1)
    fitted = fit_consensus(labels_N, log_odds_N, agreement_N)

    def loss(consensus: Consensus) -> float:
        stacked_N = consensus.apply(log_odds_N, agreement_N)
        losses_N = np.logaddexp(0, np.where(labels_N, -stacked_N, stacked_N))
        weights = consensus.log_odds_weight, consensus.agreement_weight
        return float(losses_N.sum() + 0.5 * np.sum(np.square(weights)))

    values = fitted.to_json()
    assert json.loads(json.dumps(values)) == values
    for name in values:
        for change in (-0.01, 0.01):
            assert loss(Consensus(**{**values, name: values[name] + change})) > loss(fitted)


def test_known_weights_are_found() -> None:
    rng = np.random.default_rng(3)
    log_odds_N, agreement_N = rng.normal(0, 2, 50_000), rng.random(50_000)
    true_N = Consensus(0.7, 3.0, -1.2).apply(log_odds_N, agreement_N)
    labels_N = rng.random(50_000) < 1 / (1 + np.exp(-true_N))
    fitted = fit_consensus(labels_N, log_odds_N, agreement_N)
    assert list(fitted.to_json().values()) == pytest.approx([0.7, 3.0, -1.2], abs=0.1)


def test_rows_without_siblings_keep_their_log_odds_and_do_not_fit() -> None:
    labels_N, log_odds_N, agreement_N, _ = solutions(40, 1)
    fitted = fit_consensus(labels_N, log_odds_N, agreement_N)
    more = fit_consensus(
        np.r_[labels_N, True, False],
        np.r_[log_odds_N, -50.0, 50.0],
        np.r_[agreement_N, np.nan, np.nan],
    )
    assert more == fitted
    stacked_N = fitted.apply(np.array([2.5, 2.5]), np.array([np.nan, 0.5]))
    expected = 2.5 * fitted.log_odds_weight + 0.5 * fitted.agreement_weight + fitted.offset
    assert stacked_N.tolist() == pytest.approx([2.5, expected])


def test_separable_rows_have_finite_weights() -> None:
    labels_N = np.array([True, False] * 10)
    log_odds_N = np.where(labels_N, 4.0, -4.0)
    fitted = fit_consensus(labels_N, log_odds_N, labels_N.astype(float))
    assert all(0 <= abs(value) < 10 for value in fitted.to_json().values())
    constant = fit_consensus(labels_N, np.zeros(20), np.full(20, 0.5))
    assert list(constant.to_json().values()) == pytest.approx([0, 0, 0], abs=1e-9)


def test_the_stack_is_better_than_its_parts_on_other_questions() -> None:
    fitted = fit_consensus(*solutions(300, 1)[:3])
    compared = compare(fitted, *solutions(300, 2))
    assert list(compared["predictors"]) == ["verdict", "majority", "stack"]
    aurocs = {name: one["auroc"]["value"] for name, one in compared["predictors"].items()}
    assert aurocs["stack"] > max(aurocs["verdict"], aurocs["majority"]) + 0.02
    low, high = compared["stack_gain"]["interval"]
    assert 0 < low < compared["stack_gain"]["value"] < high


def test_predictors_by_hand() -> None:
    """Three of four agree: the vote is right about all, the verdict depends on its threshold."""
    labels_N, questions_N = np.array([True, True, True, False]), np.zeros(4, dtype=int)
    log_odds_N = np.array([2.0, 0.3, 1.0, 0.1])
    agreement_N = agreement(questions_N, ["1", "1.0", "1", "2"])
    stack = Consensus(log_odds_weight=1.0, agreement_weight=4.0, offset=-1.0)
    for threshold, verdict in ((0.0, 3 / 4), (0.2, 1.0), (1.5, 2 / 4)):
        compared = compare(stack, labels_N, log_odds_N, agreement_N, questions_N, threshold)
        accuracies = {}
        for name, metrics in compared["predictors"].items():
            accuracies[name] = metrics["accuracy"]["value"]
        assert accuracies == pytest.approx({"verdict": verdict, "majority": 1, "stack": 1})
        assert compared["stack_gain"]["value"] == pytest.approx(1 - verdict)


@pytest.mark.parametrize(
    ("agreement_N", "message"),
    [
        ([0.5, 0.5, math.nan], "all 2 validation rows of questions with several .* are True"),
        ([math.nan] * 3, "no validation question has several solutions"),
    ],
)
def test_without_siblings_of_both_classes_there_is_no_consensus(
    agreement_N: list[float], message: str
) -> None:
    with pytest.raises(NoConsensusError, match=message):
        fit_consensus(np.array([True, True, False]), np.ones(3), np.array(agreement_N))
