"""The formulas of all metrics, for rows that count any number of times.

Weights of 1 give the metrics of the rows; the weights of a bootstrap resample give those of the
resample, for many resamples in one matrix product. A metric whose denominator is zero is nan:
precision where nothing is predicted True, AUROC where a class is absent. Suffixes of this file
beside those of `schema.py`:

    R  sets of weights, such as bootstrap resamples
    G  groups of rows with equal log-odds
    Q  questions
"""

from __future__ import annotations

import numpy as np

from mv_lightning.numerics import sigmoid

ECE_BINS = 15


def weighted_metrics(
    labels_N: np.ndarray,
    verdicts_N: np.ndarray,
    log_odds_N: np.ndarray,
    weights_RN: np.ndarray,
    question_ids_N: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Compute all metrics under each set of weights.

    Args:
        labels_N: bool [N].
        verdicts_N: bool [N], the predictions.
        log_odds_N: float64 [N].
        weights_RN: float64 [R, N], how often each row counts; the same for all rows of a question
            where `question_ids_N` is given.
        question_ids_N: int64 [N], the question of each row; None where it is not known:
            `auroc_within_question` is then undefined.

    Returns:
        float64 [R] by the metric's name, nan where it is undefined.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            **_verdict_metrics(labels_N, verdicts_N, weights_RN),
            **_ranking_metrics(labels_N, log_odds_N, weights_RN),
            "auroc_within_question": _auroc_within_question(
                labels_N, log_odds_N, weights_RN, question_ids_N
            ),
            **_probability_metrics(labels_N, log_odds_N, weights_RN),
        }


def _verdict_metrics(
    labels_N: np.ndarray, verdicts_N: np.ndarray, weights_RN: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics of the four cells of the confusion matrix."""
    tp = weights_RN @ (labels_N & verdicts_N)
    fp = weights_RN @ (~labels_N & verdicts_N)
    fn = weights_RN @ (labels_N & ~verdicts_N)
    tn = weights_RN @ (~labels_N & ~verdicts_N)
    recall = tp / (tp + fn)
    return {
        "accuracy": (tp + tn) / (tp + fp + fn + tn),
        "balanced_accuracy": (recall + tn / (tn + fp)) / 2,
        "precision": tp / (tp + fp),
        "recall": recall,
        "f1": 2 * tp / (2 * tp + fp + fn),
        "mcc": (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
    }


def _ranking_metrics(
    labels_N: np.ndarray, log_odds_N: np.ndarray, weights_RN: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics of the order of the rows. Rows with equal log-odds enter together."""
    order_N = np.argsort(-log_odds_N, kind="stable")
    starts_G = np.flatnonzero(np.diff(log_odds_N[order_N], prepend=np.inf))
    positive_RG = np.add.reduceat(weights_RN[:, order_N] * labels_N[order_N], starts_G, axis=1)
    negative_RG = np.add.reduceat(weights_RN[:, order_N] * ~labels_N[order_N], starts_G, axis=1)
    # Groups are in descending order: these are the True and False rows at or above each one.
    tp_RG, fp_RG = positive_RG.cumsum(axis=1), negative_RG.cumsum(axis=1)
    true, false = positive_RG.sum(axis=1), negative_RG.sum(axis=1)
    precision_RG = np.where(positive_RG > 0, tp_RG / (tp_RG + fp_RG), 0)
    return {
        "auroc": (negative_RG * (tp_RG - positive_RG / 2)).sum(axis=1) / (true * false),
        "average_precision": (positive_RG * precision_RG).sum(axis=1) / true,
    }


def _auroc_within_question(
    labels_N: np.ndarray,
    log_odds_N: np.ndarray,
    weights_RN: np.ndarray,
    question_ids_N: np.ndarray | None,
) -> np.ndarray:
    """Share of the pairs of a True and a False row of one question that are in the right order.

    Pairs are pooled over questions; equal log-odds count half. A verifier that only knows which
    questions are hard is at 0.5 here, whatever its AUROC over all rows.
    """
    if question_ids_N is None or not len(labels_N):
        return np.full(len(weights_RN), np.nan)
    _, firsts_Q, questions_N = np.unique(question_ids_N, return_index=True, return_inverse=True)
    ranks_N = _ranks_within(questions_N, log_odds_N)
    true_Q = np.bincount(questions_N, labels_N)
    pairs_Q = true_Q * np.bincount(questions_N, ~labels_N)
    # Mann and Whitney 1947, Annals of Mathematical Statistics 18(1): the sum of the ranks of the
    # True rows, less its smallest value, counts the pairs in the right order.
    ordered_Q = np.bincount(questions_N, labels_N * ranks_N) - true_Q * (true_Q + 1) / 2
    weights_RQ = weights_RN[:, firsts_Q]
    return np.asarray((weights_RQ @ ordered_Q) / (weights_RQ @ pairs_Q))


def _ranks_within(questions_N: np.ndarray, log_odds_N: np.ndarray) -> np.ndarray:
    """Rank of each row in its question, from 1, the lowest first; equal log-odds share the mean."""
    order_N = np.lexsort((log_odds_N, questions_N))
    questions, log_odds = questions_N[order_N], log_odds_N[order_N]
    new_question_N = np.diff(questions, prepend=-1) != 0
    new_group_N = new_question_N | (np.diff(log_odds, prepend=np.nan) != 0)
    starts_G = np.flatnonzero(new_group_N)
    sizes_G = np.diff(starts_G, append=len(order_N))
    places_G = starts_G + (sizes_G + 1) / 2  # the mean place, from 1, in the order of all rows
    before_Q = np.flatnonzero(new_question_N)
    ranks_N = np.empty(len(order_N))
    ranks_N[order_N] = np.repeat(places_G, sizes_G) - before_Q[questions]
    return ranks_N


def _probability_metrics(
    labels_N: np.ndarray, log_odds_N: np.ndarray, weights_RN: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics of the probabilities: squared error, calibration error, log loss."""
    rows = weights_RN.sum(axis=1)
    probabilities_N = sigmoid(log_odds_N)
    errors_N = probabilities_N - labels_N
    losses_N = np.logaddexp(0, np.where(labels_N, -log_odds_N, log_odds_N))
    bins_N = np.digitize(probabilities_N, np.linspace(0, 1, ECE_BINS + 1))
    in_bin_NB = bins_N[:, None] == np.unique(bins_N)
    error_RB = weights_RN @ (errors_N[:, None] * in_bin_NB)
    return {
        "brier": weights_RN @ errors_N**2 / rows,
        "ece": np.abs(error_RB).sum(axis=1) / rows,
        "log_loss": weights_RN @ losses_N / rows,
    }
