"""Every metric of a verifier with its bootstrap interval, over all rows and by slices.

An undefined metric (see `weighted.py`; anything of no rows) is nan here and null in JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mv_lightning.metrics.bootstrap import (
    RESAMPLES,
    percentile_interval,
    resample_weights,
    resampling_units,
)
from mv_lightning.metrics.weighted import weighted_metrics
from mv_lightning.schema import DEFAULT_SEED

COLLAPSE_SHARE = 0.99
"""From this share of one class among the predictions on, the verdict hardly depends on the row."""

_CELL_NAMES = ("true_negative", "false_positive", "false_negative", "true_positive")


@dataclass(frozen=True)
class Scores:
    """All metrics of some rows, see `score`."""

    rows: int
    true_rows: int
    """Rows whose label is True."""
    resampled: str
    """What the intervals take as independent: `questions` or `rows`."""
    units: int
    """How many of them there are."""
    values: Mapping[str, float]
    """By the name of the metric, see `weighted_metrics`."""
    intervals: Mapping[str, tuple[float, float]]
    """95 % interval of each value."""
    confusion: Mapping[str, int]
    """true_negative, false_positive, false_negative, true_positive."""
    alarm: str | None
    """A warning when (almost) all predictions are of one class."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file; nan becomes null."""
        return {
            "rows": self.rows,
            "true_rows": self.true_rows,
            "resampled": self.resampled,
            "units": self.units,
            "metrics": {name: self._metric(name) for name in self.values},
            "confusion": dict(self.confusion),
            "alarm": self.alarm,
        }

    def _metric(self, name: str) -> dict[str, Any]:
        low, high = self.intervals[name]
        return {"value": _or_null(self.values[name]), "interval": [_or_null(low), _or_null(high)]}


def score(
    labels_N: np.ndarray,
    log_odds_N: np.ndarray,
    threshold: float = 0.0,
    question_ids_N: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = DEFAULT_SEED,
) -> Scores:
    """Compute all metrics and their intervals.

    Args:
        labels_N: bool [N], True where the answer is correct.
        log_odds_N: float64 [N], log P(True) - log P(False).
        threshold: Log-odds above it are a prediction of True.
        question_ids_N: int64 [N], the question of each row; None where every row is independent of
            the others.
        resamples: Bootstrap resamples.
        seed: Seed of the resamples. Same arguments, same numbers.

    Raises:
        ValueError: The arrays do not fit each other, or a log-odds is not finite.
    """
    labels_N, log_odds_N = checked(labels_N, log_odds_N)
    verdicts_N = log_odds_N > threshold
    values = metric_values(labels_N, log_odds_N, threshold, question_ids_N)
    units_N = resampling_units(len(labels_N), question_ids_N)
    intervals = dict.fromkeys(values, (math.nan, math.nan))
    if len(labels_N):
        drawn = [
            weighted_metrics(labels_N, verdicts_N, log_odds_N, weights_RN, question_ids_N)
            for weights_RN in resample_weights(units_N, resamples, seed)
        ]
        for name in values:
            if not math.isnan(values[name]):
                intervals[name] = percentile_interval(np.concatenate([d[name] for d in drawn]))
    return Scores(
        rows=len(labels_N),
        true_rows=int(labels_N.sum()),
        resampled="rows" if question_ids_N is None else "questions",
        units=int(units_N.max(initial=-1)) + 1,
        values=values,
        intervals=intervals,
        confusion=_confusion(labels_N, verdicts_N),
        alarm=check_collapse(verdicts_N),
    )


def metric_values(
    labels_N: np.ndarray,
    log_odds_N: np.ndarray,
    threshold: float = 0.0,
    question_ids_N: np.ndarray | None = None,
) -> dict[str, float]:
    """Compute all metrics without intervals, as for the curves of a training run.

    Args:
        labels_N: As for `score`.
        log_odds_N: As for `score`.
        threshold: As for `score`.
        question_ids_N: As for `score`.

    Returns:
        See `Scores.values`.

    Raises:
        ValueError: As for `score`.
    """
    labels_N, log_odds_N = checked(labels_N, log_odds_N)
    once_1N = np.ones((1, len(labels_N)))
    verdicts_N = log_odds_N > threshold
    metrics = weighted_metrics(labels_N, verdicts_N, log_odds_N, once_1N, question_ids_N)
    return {name: float(value_1[0]) for name, value_1 in metrics.items()}


def score_slices(
    values_N: np.ndarray,
    labels_N: np.ndarray,
    log_odds_N: np.ndarray,
    threshold: float = 0.0,
    question_ids_N: np.ndarray | None = None,
) -> dict[str, Scores]:
    """Score every slice of the rows: those that share a value.

    Args:
        values_N: [N], what to slice by, such as kinds of error, or `upper_quantile` of a length.
        labels_N: As for `score`.
        log_odds_N: As for `score`.
        threshold: As for `score`.
        question_ids_N: As for `score`.

    Returns:
        The scores of each distinct value, in ascending order of the values.
    """
    slices = {}
    for value in np.unique(values_N):
        in_N = values_N == value
        questions = None if question_ids_N is None else question_ids_N[in_N]
        slices[str(value)] = score(labels_N[in_N], log_odds_N[in_N], threshold, questions)
    return slices


def upper_quantile(values_N: np.ndarray, parts: int = 5) -> np.ndarray:
    """Replace each value by the upper bound of its part, of parts with about as many rows each.

    Args:
        values_N: [N], such as solution lengths.
        parts: How many parts; fewer come out where many rows share a value.

    Returns:
        [N], of the type of `values_N`: equal within a part, for `score_slices`.
    """
    if not len(values_N):
        return values_N
    shares = np.arange(1, parts + 1) / parts
    bounds = np.unique(np.quantile(values_N, shares, method="inverted_cdf"))
    return bounds[np.searchsorted(bounds, values_N)]


def roc(labels_N: np.ndarray, log_odds_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ROC curve, from (0, 0) to (1, 1), one point per distinct log-odds.

    Args:
        labels_N: bool [N], both classes.
        log_odds_N: float64 [N].

    Returns:
        False and true positive rates.

    Raises:
        ValueError: A class is missing, the arrays do not fit each other, or a log-odds is not
            finite.
    """
    import torch
    from torchmetrics.functional.classification import binary_roc

    labels_N, log_odds_N = both_classes(labels_N, log_odds_N)
    # Ranks, as numbers from 0 to 1: probabilities would tie all log-odds beyond 37.
    _, ranks_N = np.unique(log_odds_N, return_inverse=True)
    scores_N = torch.from_numpy(ranks_N / len(ranks_N))
    false_rate, true_rate, _ = binary_roc(scores_N, torch.from_numpy(labels_N).long())
    return false_rate.numpy(), true_rate.numpy()


def check_collapse(verdicts_N: np.ndarray) -> str | None:
    """Return a warning when one class takes (almost) all predictions, else None.

    Args:
        verdicts_N: bool [N], the predictions.
    """
    if not len(verdicts_N):
        return None
    true_share = float(verdicts_N.mean())
    share = max(true_share, 1 - true_share)
    if share < COLLAPSE_SHARE:
        return None
    return (
        f"{share:.1%} of {len(verdicts_N):,} predictions are {true_share >= 0.5}: the verdict "
        "hardly depends on the row. Train longer, look at the loss curve and the learning rate, "
        "and check the balance of the labels."
    )


def checked(labels_N: np.ndarray, log_odds_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both arrays as bool [N] and float64 [N].

    Raises:
        ValueError: They do not fit each other, or a log-odds is not finite.
    """
    labels_N, log_odds_N = np.asarray(labels_N), np.asarray(log_odds_N, dtype=np.float64)
    fitting = labels_N.ndim == 1 and labels_N.shape == log_odds_N.shape
    if not fitting or (len(labels_N) and labels_N.dtype != bool):
        raise ValueError(
            "expected one bool and one number per row, got labels "
            f"{labels_N.dtype}{list(labels_N.shape)} and log-odds {list(log_odds_N.shape)}. Leave "
            "unlabelled rows out"
        )
    if len(bad := np.flatnonzero(~np.isfinite(log_odds_N))):
        raise ValueError(
            f"the log-odds of {len(bad)} rows are not finite, the first is row {bad[0]}. Predict "
            "them again"
        )
    return labels_N.astype(bool), log_odds_N


def both_classes(labels_N: np.ndarray, log_odds_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both arrays as `checked` does, for what is fitted on validation rows.

    Raises:
        ValueError: As for `checked`, or a class is missing.
    """
    labels_N, log_odds_N = checked(labels_N, log_odds_N)
    true = int(labels_N.sum())
    if true in (0, len(labels_N)):
        raise ValueError(
            f"expected rows of both classes, got {true} True and {len(labels_N) - true} False "
            "rows. Take more rows, or balance the validation rows"
        )
    return labels_N, log_odds_N


def _confusion(labels_N: np.ndarray, verdicts_N: np.ndarray) -> dict[str, int]:
    counts = np.bincount(2 * labels_N + verdicts_N, minlength=len(_CELL_NAMES))
    return dict(zip(_CELL_NAMES, counts.tolist(), strict=True))


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value
