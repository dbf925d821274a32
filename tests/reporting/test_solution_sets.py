"""Solve rates and predictors of labels are those of the metrics, and named as what they are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mv_lightning.artifacts.solutions import Solutions, fit_stack
from mv_lightning.metrics.best_of_n import POLICIES, solve_rates
from mv_lightning.metrics.bootstrap import mean_interval
from mv_lightning.reporting.solution_sets import measure, report


def draw(questions: int, seed: int) -> Solutions:
    """Three solutions a question and one question with two; right answers agree."""
    rng = np.random.default_rng(seed)
    question_ids_N = np.repeat(np.arange(questions), 3)[:-1]
    labels_N = rng.random(len(question_ids_N)) > np.repeat(rng.random(questions), 3)[:-1]
    answers = [str(answer) for answer in np.where(labels_N, 0, rng.integers(1, 9, len(labels_N)))]
    log_odds_N = np.where(labels_N, 1.0, -1.0) + 2 * rng.normal(size=len(labels_N))
    texts = [f"{seed}, {question}" for question in range(questions)]
    return Solutions(question_ids_N, answers, labels_N, log_odds_N, texts)


def test_the_numbers_are_those_of_the_metrics() -> None:
    solutions, consensus = draw(60, 1), fit_stack(draw(60, 0))
    result = measure(solutions, consensus=consensus, threshold=0.25)
    assert json.loads(json.dumps(result)) == result
    assert (result["questions"], result["left_out"]) == (59, 1)
    arrays = (solutions.question_ids_N, solutions.answers, solutions.labels_N, solutions.log_odds_N)
    rates = solve_rates(*arrays, 3, consensus)
    assert list(result["solve_rate"]) == ["1", "2", "3"]
    for n, policies in result["solve_rate"].items():
        assert tuple(policies) == POLICIES
        for policy, rate in policies.items():
            rates_Q = rates[policy][:, int(n) - 1]
            assert rate["value"] == pytest.approx(rates_Q.mean())
            assert rate["interval"] == pytest.approx(mean_interval(rates_Q[:, None])[0].tolist())
    last = result["solve_rate"]["3"]
    for policy, gain in result["gain_over_majority"].items():
        difference = last[policy]["value"] - last["majority"]["value"]
        assert gain["value"] == pytest.approx(difference)
    assert result["stack"]["weights"] == consensus.to_json()
    accuracy = result["stack"]["predictors"]["verdict"]["accuracy"]["value"]
    assert accuracy == np.mean((solutions.log_odds_N > 0.25) == solutions.labels_N)


def test_only_what_reads_one_solution_is_called_a_verdict() -> None:
    text = report(measure(draw(60, 1), consensus=fit_stack(draw(60, 0))))
    assert "verdict: one solution alone" in text and "majority: the set of solutions" in text
    assert "accuracy of the stack over the verdict: " in text
    assert "gain over the majority with 3 solutions: best " in text and ", stack " in text
    assert "left out: 1 questions" in text
    plain = report(measure(draw(60, 1), max_n=2))
    assert "stack" not in plain and "verdict" not in plain and "left out" not in plain
