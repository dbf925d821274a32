"""Scores of predictions on held-out questions.

Claims about verifying are made within questions: the AUROC over pairs of a right and a wrong
solution of one question, and the share of questions solved by picking one of four solutions. All
intervals are 95 % bootstrap intervals over questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.artifacts.evaluations import read_evaluated
from mv_lightning.artifacts.layout import PhaseFolder, RunFolder
from mv_lightning.artifacts.predictions import (
    applied_calibration,
    load_predicted,
    read_predictions,
)
from mv_lightning.data.sources import Source, load_source
from mv_lightning.metrics.best_of_n import solve_rates
from mv_lightning.metrics.bootstrap import mean_interval
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.metrics.consensus import Consensus, agreement, fit_consensus
from mv_lightning.metrics.scores import score

SOLUTIONS = 4
"""Solutions of a question that one is picked from."""
METRICS = ("accuracy", "balanced_accuracy", "auroc", "auroc_within_question")
VOTE = "majority"
"""The policy that the verifier's picks are compared with."""


@dataclass(frozen=True)
class ScoredRows:
    """Labelled rows of held-out questions with their log-odds."""

    question_ids_N: np.ndarray
    answers: list[str]
    labels_N: np.ndarray
    log_odds_N: np.ndarray
    """float64 [N], calibrated."""

    @classmethod
    def of(cls, source: Source, rows_N: np.ndarray, log_odds_N: np.ndarray) -> ScoredRows:
        """Join log-odds with the rows of a source.

        Args:
            source: Labelled rows.
            rows_N: int64 [N], the source row of each log-odds.
            log_odds_N: float64 [N], calibrated.
        """
        assert source.labels_N is not None
        answers = source.table.select(rows_N)["answer"][:]
        return cls(source.question_ids_N[rows_N], answers, source.labels_N[rows_N], log_odds_N)


def score_prediction(
    prediction: RunFolder, rows: Path, phase: PhaseFolder, training_rows: Path
) -> dict[str, Any]:
    """Score what `predict` wrote.

    Args:
        prediction: Its folder.
        rows: The labelled rows that were predicted.
        phase: The trained phase; on its validation questions the stack of verdict and vote is
            fitted.
            Without validation rows there is no stack.
        training_rows: The source of the phase.

    Returns:
        See `score_rows`.
    """
    predictions = read_predictions(prediction.probabilities)
    source, rows_N = load_predicted(str(rows), predictions.ids)
    calibration = applied_calibration(prediction.probabilities)
    consensus = None
    if phase.evaluated_rows("val").is_file():
        consensus = _fit_stack(phase, training_rows, calibration)
    scored = ScoredRows.of(source, rows_N, predictions.log_odds_N)
    return score_rows(scored, calibration.threshold, consensus)


def _fit_stack(phase: PhaseFolder, training_rows: Path, calibration: Calibration) -> Consensus:
    evaluated = read_evaluated(phase.evaluated_rows("val"))
    rows_N, log_odds_N = evaluated.rows_N, evaluated.log_odds_N
    source = load_source(str(training_rows))
    val = ScoredRows.of(source, rows_N, calibration.apply(log_odds_N))
    agreement_N = agreement(val.question_ids_N, val.answers)
    return fit_consensus(val.labels_N, val.log_odds_N, agreement_N)


def score_rows(
    rows: ScoredRows, threshold: float = 0.0, consensus: Consensus | None = None
) -> dict[str, Any]:
    """Score log-odds on rows of held-out questions.

    Args:
        rows: The rows.
        threshold: Log-odds above it are a verdict of True.
        consensus: For the stack, fitted on other questions.

    Returns:
        Counts, the majority's accuracy, metrics with intervals, and the solve rates with four
        solutions (None where no question has as many).
    """
    scores = score(rows.labels_N, rows.log_odds_N, threshold, rows.question_ids_N).to_json()
    true_share = float(rows.labels_N.mean())
    return {
        "rows": len(rows.labels_N),
        "questions": len(np.unique(rows.question_ids_N)),
        "true_share": true_share,
        "majority": max(true_share, 1 - true_share),
        **{name: scores["metrics"][name] for name in METRICS},
        "solve_rate": _solve_rates(rows, consensus),
    }


def _solve_rates(rows: ScoredRows, consensus: Consensus | None) -> dict[str, Any] | None:
    if np.bincount(rows.question_ids_N).max() < SOLUTIONS:
        return None
    by_size = solve_rates(
        rows.question_ids_N, rows.answers, rows.labels_N, rows.log_odds_N, SOLUTIONS, consensus
    )
    by_policy = {policy: rates_QN[:, -1] for policy, rates_QN in by_size.items()}
    gains = {
        policy: _mean(rates_Q - by_policy[VOTE])
        for policy, rates_Q in by_policy.items()
        if policy in ("best", "stack")
    }
    return {
        "questions": len(by_policy[VOTE]),
        "solutions": SOLUTIONS,
        **{policy: _mean(rates_Q) for policy, rates_Q in by_policy.items()},
        "gain_over_majority": gains,
        "stack_weights": None if consensus is None else consensus.to_json(),
    }


def _mean(values_Q: np.ndarray) -> Mapping[str, Any]:
    interval = mean_interval(values_Q[:, None])[0].tolist()
    return {"value": float(values_Q.mean()), "interval": interval}
