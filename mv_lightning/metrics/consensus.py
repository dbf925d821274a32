"""The answers of several solutions of one question as evidence beside the verifier's log-odds.

How many of a question's other solutions reach the same answer (self-consistency: Wang et al. 2023,
arXiv:2203.11171) says something that the verifier does not see: it reads one solution. A consensus
combines both. It is a predictor for a set of solutions, not a verdict on one: the same solution
gets another value beside other solutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mv_lightning.metrics.answers import answer_ids
from mv_lightning.metrics.bootstrap import mean_with_interval
from mv_lightning.metrics.scores import checked, score
from mv_lightning.numerics import sigmoid

COMPARED = ("accuracy", "balanced_accuracy", "auroc", "auroc_within_question")
"""Metrics of `compare`. None of them needs a calibrated probability, which a vote has not."""
_RIDGE = 1.0  # penalty on half the squared weights: finite weights on separable rows
_STEPS = 50  # of Newton's method; it needs about eight
_TOLERANCE = 1e-10


class NoConsensusError(ValueError):
    """Validation rows that no consensus can be fitted on; the message is the reason."""


@dataclass(frozen=True)
class Consensus:
    """Set-level log-odds: a weighted sum of a solution's log-odds and of its agreement."""

    log_odds_weight: float
    agreement_weight: float
    offset: float

    def apply(self, log_odds_N: np.ndarray, agreement_N: np.ndarray) -> np.ndarray:
        """Return the set-level log-odds, float64 [N].

        Args:
            log_odds_N: [N], calibrated.
            agreement_N: [N], see `agreement`. Where it is nan (the only solution of a question),
                the log-odds are returned unchanged.
        """
        stacked_N = (
            self.log_odds_weight * log_odds_N + self.agreement_weight * agreement_N + self.offset
        )
        return np.where(np.isnan(agreement_N), log_odds_N, stacked_N)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return asdict(self)


def agreement(question_ids_N: np.ndarray, answers: Sequence[str]) -> np.ndarray:
    """Compute the share of a solution's siblings that have the same answer.

    Args:
        question_ids_N: int64 [N], the question of each row.
        answers: N proposed answers, compared by value, see `answers.normalize_answer`.

    Returns:
        float64 [N], 0 to 1: of the other rows of the question; nan where there is no other one.
    """
    _, questions_N = np.unique(question_ids_N, return_inverse=True)
    pairs_NP = np.column_stack([questions_N, answer_ids(answers)])
    _, same_N, counts = np.unique(pairs_NP, axis=0, return_inverse=True, return_counts=True)
    siblings_N = np.bincount(questions_N)[questions_N] - 1
    same_answer_N = counts[same_N.ravel()] - 1
    return np.where(siblings_N > 0, same_answer_N / np.maximum(1, siblings_N), np.nan)


def fit_consensus(
    labels_N: np.ndarray, log_odds_N: np.ndarray, agreement_N: np.ndarray
) -> Consensus:
    """Fit the weights by logistic regression on solutions of validation questions.

    Args:
        labels_N: bool [N], both classes among the rows that have siblings.
        log_odds_N: float64 [N], calibrated.
        agreement_N: float64 [N], see `agreement`. Rows where it is nan are left out.

    Raises:
        NoConsensusError: No question has several solutions, or all rows of those that have are of
            one class.
        ValueError: The arrays do not fit each other, or a log-odds is not finite.
    """
    with_siblings_N = ~np.isnan(agreement_N)
    if not with_siblings_N.any():
        raise NoConsensusError("no validation question has several solutions")
    labels_N, log_odds_N = checked(labels_N[with_siblings_N], log_odds_N[with_siblings_N])
    if len(np.unique(labels_N)) < 2:
        raise NoConsensusError(
            f"all {len(labels_N):,} validation rows of questions with several solutions are "
            f"{labels_N[0]}"
        )
    ones_N = np.ones(len(labels_N))
    features_NK = np.column_stack([log_odds_N, agreement_N[with_siblings_N], ones_N])
    penalty_K = _RIDGE * np.array([1.0, 1.0, 0.0])
    weights_K = _logistic_regression(features_NK, labels_N, penalty_K)
    return Consensus(*weights_K.tolist())


def compare(
    consensus: Consensus,
    labels_N: np.ndarray,
    log_odds_N: np.ndarray,
    agreement_N: np.ndarray,
    question_ids_N: np.ndarray,
    threshold: float = 0.0,
) -> dict[str, Any]:
    """Score the predictors of a row's label: the verdict, the vote, and both together.

    Args:
        consensus: Fitted on other questions.
        labels_N: bool [N].
        log_odds_N: float64 [N], calibrated.
        agreement_N: float64 [N], see `agreement`.
        question_ids_N: int64 [N].
        threshold: Log-odds above it are a verdict of True.

    Returns:
        Plain values: `predictors`, the metrics of `COMPARED` with intervals of `verdict` (reads one
        solution), `majority` (True where more than half of the siblings have the same answer) and
        `stack`; and `stack_gain`, the gain in accuracy of the stack over the verdict (0 to 1) with
        its paired interval.
    """
    stacked_N = consensus.apply(log_odds_N, agreement_N)
    votes_N = np.where(np.isnan(agreement_N), 0.0, agreement_N - 0.5)
    scores = {
        "verdict": score(labels_N, log_odds_N, threshold, question_ids_N),
        "majority": score(labels_N, votes_N, question_ids_N=question_ids_N),
        "stack": score(labels_N, stacked_N, question_ids_N=question_ids_N),
    }
    predictors = {}
    for name, of_predictor in scores.items():
        metrics = of_predictor.to_json()["metrics"]
        predictors[name] = {metric: metrics[metric] for metric in COMPARED}
    right_N = ((stacked_N > 0) == labels_N).astype(np.float64)
    gain_N = right_N - ((log_odds_N > threshold) == labels_N)
    return {
        "predictors": predictors,
        "stack_gain": mean_with_interval(gain_N, question_ids_N),
    }


def _logistic_regression(
    features_NK: np.ndarray, labels_N: np.ndarray, penalty_K: np.ndarray
) -> np.ndarray:
    """Weights of least log loss plus half of `penalty_K` times their squares, by Newton's method.

    A step that does not lower the loss is halved: far from the optimum the curvature misleads.
    """

    def loss(weights_K: np.ndarray) -> float:
        scores_N = features_NK @ weights_K
        log_losses_N = np.logaddexp(0, np.where(labels_N, -scores_N, scores_N))
        return float(log_losses_N.sum() + 0.5 * penalty_K @ weights_K**2)

    weights_K = np.zeros(features_NK.shape[1])
    for _ in range(_STEPS):
        probabilities_N = sigmoid(features_NK @ weights_K)
        slope_K = features_NK.T @ (probabilities_N - labels_N) + penalty_K * weights_K
        variances_N = probabilities_N * (1 - probabilities_N)
        curvature_KK = (features_NK.T * variances_N) @ features_NK + np.diag(penalty_K)
        step_K = np.linalg.lstsq(curvature_KK, slope_K, rcond=None)[0]
        before = loss(weights_K)
        while loss(weights_K - step_K) > before and np.abs(step_K).max() > _TOLERANCE:
            step_K = step_K / 2
        weights_K = weights_K - step_K
        if np.abs(step_K).max() <= _TOLERANCE:
            break
    return weights_K
