"""Scores of predictions on held-out questions.

Claims about verifying are made within questions: the AUROC over pairs of a right and a wrong
solution of one question, and the share of questions solved by picking one of four solutions. All
intervals are 95 % bootstrap intervals over questions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.artifacts.layout import PhaseFolder, RunFolder
from mv_lightning.artifacts.predictions import applied_calibration, read_predictions
from mv_lightning.artifacts.solutions import (
    Solutions,
    fit_stack,
    predicted_solutions,
    validated_solutions,
)
from mv_lightning.data.sources import load_source
from mv_lightning.metrics.best_of_n import gains_over_majority, solve_rates
from mv_lightning.metrics.bootstrap import mean_with_interval
from mv_lightning.metrics.calibration import fit_calibration
from mv_lightning.metrics.consensus import Consensus
from mv_lightning.metrics.scores import score

SOLUTIONS = 4
"""Solutions of a question that one is picked from."""
METRICS = ("accuracy", "balanced_accuracy", "auroc", "auroc_within_question")


@dataclass(frozen=True)
class Prediction:
    """What `predict` wrote about labelled rows."""

    folder: RunFolder
    rows: Path
    """The labelled rows that were predicted."""

    def solutions(self) -> Solutions:
        """Return the rows with their log-odds.

        Raises:
            ValueError: A row has no probability, or the files are not of these rows.
        """
        predictions = read_predictions(self.folder.probabilities)
        if predictions.n_missing:
            raise ValueError(
                f"expected a probability for every row, got none for {predictions.n_missing:,} "
                f"rows of {predictions.path}: all runs are scored on the same rows. Predict with a "
                "larger data.max_length"
            )
        return predicted_solutions(predictions, str(self.rows))


def score_prediction(
    prediction: Prediction, phase: PhaseFolder, training_rows: Path
) -> dict[str, Any]:
    """Score a prediction with the calibration that training fitted.

    Args:
        prediction: The prediction.
        phase: The trained phase; on its validation questions the stack of verdict and vote is
            fitted. Without validation rows there is no stack.
        training_rows: The source of the phase.

    Returns:
        See `score_rows`.

    Raises:
        ValueError: See `Prediction.solutions`.
    """
    solutions = prediction.solutions()
    calibration = applied_calibration(prediction.folder.probabilities)
    consensus, validated = None, phase.evaluated_rows("val")
    if validated.is_file():
        source = load_source(str(training_rows))
        consensus = fit_stack(validated_solutions(validated, source, calibration))
    return score_rows(solutions, calibration.threshold, consensus)


def score_calibrated(prediction: Prediction, kept: Prediction) -> dict[str, Any]:
    """Score a prediction with a calibration that is fitted on another one.

    Args:
        prediction: The prediction.
        kept: The same model's prediction of rows whose questions it was not trained on. On them
            temperature, threshold and stack are fitted.

    Returns:
        See `score_rows`.

    Raises:
        ValueError: See `Prediction.solutions`.
    """
    solutions, validated = prediction.solutions(), kept.solutions()
    calibration = fit_calibration(
        validated.labels_N, validated.log_odds_N, validated.question_ids_N
    )
    solutions, validated = (
        replace(rows, log_odds_N=calibration.apply(rows.log_odds_N))
        for rows in (solutions, validated)
    )
    return score_rows(solutions, calibration.threshold, fit_stack(validated, solutions))


def score_rows(
    rows: Solutions, threshold: float = 0.0, consensus: Consensus | None = None
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


def _solve_rates(rows: Solutions, consensus: Consensus | None) -> dict[str, Any] | None:
    if np.bincount(rows.question_ids_N).max() < SOLUTIONS:
        return None
    by_size = solve_rates(
        rows.question_ids_N, rows.answers, rows.labels_N, rows.log_odds_N, SOLUTIONS, consensus
    )
    by_policy = {policy: rates_QN[:, -1] for policy, rates_QN in by_size.items()}
    return {
        "questions": len(by_policy["majority"]),
        "solutions": SOLUTIONS,
        **{policy: mean_with_interval(rates_Q) for policy, rates_Q in by_policy.items()},
        "gain_over_majority": gains_over_majority(by_policy),
        "stack_weights": None if consensus is None else consensus.to_json(),
    }
