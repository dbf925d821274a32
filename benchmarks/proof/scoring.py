"""Scores of predictions on held-out questions.

Claims about verifying are made within questions: the AUROC over pairs of a right and a wrong
solution of one question, and the share of questions solved by picking one of four solutions. All
intervals are 95 % bootstrap intervals over questions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.predictions import (
    applied_calibration,
    load_predicted,
    read_predictions,
)
from mv_lightning.metrics.best_of_n import solve_rates
from mv_lightning.metrics.bootstrap import RESAMPLES, mean_interval, percentile_interval
from mv_lightning.metrics.scores import score
from mv_lightning.schema import DEFAULT_SEED

SOLUTIONS = 4
"""Solutions of a question that one is picked from."""
METRICS = ("accuracy", "balanced_accuracy", "auroc")


def score_prediction(prediction: RunFolder, rows: Path) -> dict[str, Any]:
    """Score what `predict` wrote.

    Args:
        prediction: Its folder.
        rows: The labelled rows that were predicted.

    Returns:
        See `score_rows`.
    """
    predictions = read_predictions(prediction.probabilities)
    source, rows_N = load_predicted(str(rows), predictions.ids)
    assert source.labels_N is not None
    threshold = applied_calibration(prediction.probabilities).threshold
    return score_rows(
        source.question_ids_N[rows_N],
        source.table.select(rows_N)["answer"][:],
        source.labels_N[rows_N],
        predictions.log_odds_N,
        threshold,
    )


def score_rows(
    question_ids_N: np.ndarray,
    answers: list[str],
    labels_N: np.ndarray,
    log_odds_N: np.ndarray,
    threshold: float = 0.0,
) -> dict[str, Any]:
    """Score log-odds on rows of held-out questions.

    Args:
        question_ids_N: int64 [N].
        answers: N proposed answers.
        labels_N: bool [N].
        log_odds_N: float64 [N], calibrated.
        threshold: Log-odds above it are a verdict of True.

    Returns:
        Counts, the majority's accuracy, metrics with intervals, the AUROC within a question, and
        the solve rates with four solutions (None where no question has as many).
    """
    scores = score(labels_N, log_odds_N, threshold, question_ids_N).to_json()
    true_share = float(labels_N.mean())
    return {
        "rows": len(labels_N),
        "questions": len(np.unique(question_ids_N)),
        "true_share": true_share,
        "majority": max(true_share, 1 - true_share),
        **{name: scores["metrics"][name] for name in METRICS},
        "auroc_within_question": auroc_within_question(question_ids_N, labels_N, log_odds_N),
        "solve_rate": _solve_rates(question_ids_N, answers, labels_N, log_odds_N),
    }


def auroc_within_question(
    question_ids_N: np.ndarray, labels_N: np.ndarray, log_odds_N: np.ndarray
) -> dict[str, Any]:
    """Compute the AUROC over pairs of a right and a wrong solution of one question.

    Pairs are pooled over questions; ties count half.

    Args:
        question_ids_N: int64 [N].
        labels_N: bool [N].
        log_odds_N: float64 [N].

    Returns:
        `pairs`, `questions` (with such pairs), `value` and `interval`.
    """
    counts = []
    for question in np.unique(question_ids_N):
        rows = question_ids_N == question
        right, wrong = log_odds_N[rows & labels_N], log_odds_N[rows & ~labels_N]
        difference = right[:, None] - wrong[None, :]
        if difference.size:
            ranked = np.count_nonzero(difference > 0) + np.count_nonzero(difference == 0) / 2
            counts.append((ranked, difference.size))
    ranked_Q, pairs_Q = np.array(counts, dtype=np.float64).reshape(-1, 2).T
    if not len(pairs_Q):
        return {"pairs": 0, "questions": 0, "value": None, "interval": [None, None]}
    rng = np.random.default_rng(DEFAULT_SEED)
    drawn_RQ = rng.integers(0, len(pairs_Q), (RESAMPLES, len(pairs_Q)))
    values_R = ranked_Q[drawn_RQ].sum(axis=1) / pairs_Q[drawn_RQ].sum(axis=1)
    return {
        "pairs": int(pairs_Q.sum()),
        "questions": len(pairs_Q),
        "value": float(ranked_Q.sum() / pairs_Q.sum()),
        "interval": list(percentile_interval(values_R)),
    }


def _solve_rates(
    question_ids_N: np.ndarray, answers: list[str], labels_N: np.ndarray, log_odds_N: np.ndarray
) -> dict[str, Any] | None:
    if np.bincount(question_ids_N).max() < SOLUTIONS:
        return None
    by_policy = solve_rates(question_ids_N, answers, labels_N, log_odds_N, SOLUTIONS)
    rates: dict[str, Any] = {"questions": len(by_policy["random"]), "solutions": SOLUTIONS}
    for policy, rates_QC in by_policy.items():
        interval = mean_interval(rates_QC[:, -1:])[0].tolist()
        rates[policy] = {"value": float(rates_QC[:, -1].mean()), "interval": interval}
    return rates
