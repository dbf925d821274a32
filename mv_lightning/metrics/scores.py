"""Every metric of a verifier with its bootstrap interval, over all rows and by slices.

A metric whose denominator is zero (precision where nothing is predicted True, AUROC where a class is absent,
anything of no rows) is nan here and null in JSON. Where several rows belong to one question, their verdicts stand and
fall together, and intervals that take them as independent are too narrow: questions are resampled with all their rows
(cluster bootstrap: Field and Welsh 2007, JRSS B 69(3); Cameron, Gelbach and Miller 2008, Review of Economics and
Statistics 90(3)). Suffixes of this file beside those of `schema.py`:

    R  bootstrap resamples
    Q  questions, or rows where nothing groups them
    G  groups of rows with equal log-odds
    K  columns averaged side by side
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mv_lightning.numerics import sigmoid
from mv_lightning.schema import DEFAULT_SEED

if TYPE_CHECKING:
    import torch

ALARM_SHARE = 0.99
"""From this share of one class among the predictions on, a verifier is not looking at its rows."""
ECE_BINS = 15
RESAMPLES = 1_000
INTERVAL = (0.025, 0.975)
"""Quantiles of the resamples that bound a 95 % percentile interval (Efron and Tibshirani 1993)."""

_CELL_NAMES = ("true_negative", "false_positive", "false_negative", "true_positive")
_HELD = 4_000_000  # resamples x rows held at once: 32 MB


@dataclass(frozen=True)
class Scores:
    """What `score` found."""

    rows: int
    true_rows: int
    """Rows whose label is True."""
    resampled: str
    """What the intervals take as independent: `questions` or `rows`."""
    units: int
    """How many of them there are."""
    values: Mapping[str, float]
    """accuracy, balanced_accuracy, precision, recall, f1, mcc, auroc, average_precision, brier, ece, log_loss."""
    intervals: Mapping[str, tuple[float, float]]
    """95 % interval of each value."""
    confusion: Mapping[str, int]
    """true_negative, false_positive, false_negative, true_positive."""
    alarm: str | None
    """What is wrong when (almost) all predictions are of one class."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `write_json`; nan becomes null."""
        metrics = {
            name: {
                "value": _or_null(value),
                "interval": [_or_null(end) for end in self.intervals[name]],
            }
            for name, value in self.values.items()
        }
        return {
            "rows": self.rows,
            "true_rows": self.true_rows,
            "resampled": self.resampled,
            "units": self.units,
            "metrics": metrics,
            "confusion": dict(self.confusion),
            "alarm": self.alarm,
        }


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
        question_ids_N: int64 [N], the question of each row; None where every row is independent of the others.
        resamples: Bootstrap resamples.
        seed: Seed of the resamples. Same arguments, same numbers.

    Raises:
        ValueError: The arrays do not fit each other, or a log-odds is not finite.
    """
    labels_N, log_odds_N = checked(labels_N, log_odds_N)
    verdicts_N = log_odds_N > threshold
    values = _values(labels_N, verdicts_N, log_odds_N)
    units_N = _units(len(labels_N), question_ids_N)
    drawn = _resampled_values(labels_N, verdicts_N, log_odds_N, units_N, resamples, seed)
    cells_N = 2 * labels_N + verdicts_N
    return Scores(
        rows=len(labels_N),
        true_rows=int(labels_N.sum()),
        resampled="rows" if question_ids_N is None else "questions",
        units=int(units_N.max(initial=-1)) + 1,
        values=values,
        intervals={
            name: _interval(drawn[name]) if value == value else (math.nan,) * 2
            for name, value in values.items()
        },
        confusion={
            name: int(np.count_nonzero(cells_N == cell)) for cell, name in enumerate(_CELL_NAMES)
        },
        alarm=check_collapse(verdicts_N),
    )


def metric_values(
    labels_N: np.ndarray, log_odds_N: np.ndarray, threshold: float = 0.0
) -> dict[str, float]:
    """Compute all metrics without intervals, for a look while a run goes on.

    Args:
        labels_N: As for `score`.
        log_odds_N: As for `score`.
        threshold: As for `score`.

    Returns:
        See `Scores.values`.

    Raises:
        ValueError: As for `score`.
    """
    labels_N, log_odds_N = checked(labels_N, log_odds_N)
    return _values(labels_N, log_odds_N > threshold, log_odds_N)


def score_slices(
    values_N: np.ndarray,
    labels_N: np.ndarray,
    log_odds_N: np.ndarray,
    threshold: float = 0.0,
    question_ids_N: np.ndarray | None = None,
) -> dict[str, Scores]:
    """Score every slice of the rows: those that share a value.

    Args:
        values_N: [N], what to slice by: kinds of error, cut or uncut, `upper_quantile` of a length.
        labels_N: As for `score`.
        log_odds_N: As for `score`.
        threshold: As for `score`.
        question_ids_N: As for `score`.

    Returns:
        The scores of each distinct value, in ascending order of the values.
    """
    slices = {str(value): values_N == value for value in np.unique(values_N)}
    return {
        name: score(
            labels_N[in_N],
            log_odds_N[in_N],
            threshold,
            None if question_ids_N is None else question_ids_N[in_N],
        )
        for name, in_N in slices.items()
    }


def upper_quantile(values_N: np.ndarray, parts: int = 5) -> np.ndarray:
    """Replace each value by the upper bound of its part, when the rows are cut into parts of about equal size.

    Args:
        values_N: [N], such as solution lengths.
        parts: How many parts; fewer come out where many rows share a value.

    Returns:
        [N], of the type of `values_N`: equal in one part, to be given to `score_slices`.
    """
    if not len(values_N):
        return values_N
    bounds = np.unique(
        np.quantile(values_N, np.arange(1, parts + 1) / parts, method="inverted_cdf")
    )
    return bounds[np.searchsorted(bounds, values_N)]


def roc(labels_N: np.ndarray, log_odds_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ROC curve: false and true positive rates from (0, 0) to (1, 1), one point per distinct log-odds.

    Args:
        labels_N: bool [N], both classes.
        log_odds_N: float64 [N].

    Raises:
        ValueError: A class is missing, the arrays do not fit each other, or a log-odds is not finite.
    """
    import torch
    from torchmetrics.functional.classification import binary_roc

    labels_N, log_odds_N = both_classes(labels_N, log_odds_N)
    false_rate, true_rate, _ = binary_roc(_ranks(log_odds_N), torch.from_numpy(labels_N).long())
    return false_rate.numpy(), true_rate.numpy()


def mean_interval(
    values_NK: np.ndarray,
    question_ids_N: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = DEFAULT_SEED,
) -> np.ndarray:
    """Bound the means of columns by a bootstrap over their rows, or over the questions of these.

    All columns see the same resamples: a column of differences gives a paired interval.

    Args:
        values_NK: [N, K].
        question_ids_N: As for `score`.
        resamples: Bootstrap resamples.
        seed: Seed of the resamples.

    Returns:
        float64 [K, 2], lower and upper end; nan without rows.
    """
    rows, columns = values_NK.shape
    if rows == 0:
        return np.full((columns, 2), math.nan)
    drawn = _resamples(_units(rows, question_ids_N), resamples, seed)
    means_RK = np.concatenate(
        [weights_RN @ values_NK / weights_RN.sum(axis=1, keepdims=True) for weights_RN in drawn]
    )
    return np.quantile(means_RK, INTERVAL, axis=0).T


def check_collapse(verdicts_N: np.ndarray) -> str | None:
    """Return the alarm when one class takes (almost) all predictions, else None.

    Args:
        verdicts_N: bool [N], the predictions.
    """
    if not len(verdicts_N):
        return None
    share = float(verdicts_N.mean())
    word, most = ("True", share) if share >= 0.5 else ("False", 1 - share)
    if most < ALARM_SHARE:
        return None
    return (
        f"{most:.1%} of {len(verdicts_N):,} predictions are {word}: the verdict hardly depends on the row. Train "
        "longer, look at the loss curve and the learning rate, and check the balance of the labels."
    )


def checked(labels_N: np.ndarray, log_odds_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both arrays as bool [N] and float64 [N].

    Raises:
        ValueError: They do not fit each other, or a log-odds is not finite.
    """
    labels_N, log_odds_N = np.asarray(labels_N), np.asarray(log_odds_N, dtype=np.float64)
    if (
        labels_N.ndim != 1
        or labels_N.shape != log_odds_N.shape
        or (len(labels_N) and labels_N.dtype != bool)
    ):
        raise ValueError(
            f"labels {labels_N.dtype}{list(labels_N.shape)} and log-odds {list(log_odds_N.shape)}: needed are one bool "
            "and one number per row; leave unlabelled rows out"
        )
    if len(bad := np.flatnonzero(~np.isfinite(log_odds_N))):
        raise ValueError(
            f"the log-odds of {len(bad)} rows are not finite, the first is row {bad[0]}; predict them again"
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
            f"{true} True and {len(labels_N) - true} False rows: needed are both classes. Take more rows, or balance "
            "the validation rows"
        )
    return labels_N, log_odds_N


def _values(
    labels_N: np.ndarray, verdicts_N: np.ndarray, log_odds_N: np.ndarray
) -> dict[str, float]:
    """The metrics themselves, nan where a denominator is zero (torchmetrics gives 0 or a guess there)."""
    import torch
    from torchmetrics import functional as tm
    from torchmetrics.functional import classification as binary

    truth, verdicts = torch.from_numpy(labels_N).long(), torch.from_numpy(verdicts_N).long()
    odds = torch.from_numpy(log_odds_N)
    probabilities = odds.sigmoid()
    ranks = _ranks(log_odds_N)
    rows, true, said = len(labels_N) > 0, bool(labels_N.any()), bool(verdicts_N.any())
    both = true and not labels_N.all()
    metrics = {
        "accuracy": (rows, lambda: binary.binary_accuracy(verdicts, truth)),
        "balanced_accuracy": (
            both,
            lambda: (
                (binary.binary_recall(verdicts, truth) + binary.binary_specificity(verdicts, truth))
                / 2
            ),
        ),
        "precision": (said, lambda: binary.binary_precision(verdicts, truth)),
        "recall": (true, lambda: binary.binary_recall(verdicts, truth)),
        "f1": (true or said, lambda: binary.binary_f1_score(verdicts, truth)),
        "mcc": (
            both and said and not verdicts_N.all(),
            lambda: binary.binary_matthews_corrcoef(verdicts, truth),
        ),
        "auroc": (both, lambda: binary.binary_auroc(ranks, truth)),
        "average_precision": (true, lambda: binary.binary_average_precision(ranks, truth)),
        "brier": (rows, lambda: tm.mean_squared_error(probabilities, truth.double())),
        "ece": (
            rows,
            lambda: binary.binary_calibration_error(probabilities, truth, n_bins=ECE_BINS),
        ),
        "log_loss": (
            rows,
            lambda: torch.nn.functional.binary_cross_entropy_with_logits(odds, truth.double()),
        ),
    }
    return {
        name: float(compute()) if defined else math.nan
        for name, (defined, compute) in metrics.items()
    }


def _ranks(log_odds_N: np.ndarray) -> torch.Tensor:
    """Ranks as numbers from 0 to 1 for torchmetrics: probabilities would tie all log-odds beyond 37."""
    import torch

    _, ranks_N = np.unique(log_odds_N, return_inverse=True)
    return torch.from_numpy(ranks_N / max(1, len(ranks_N)))


def _resampled_values(
    labels_N: np.ndarray,
    verdicts_N: np.ndarray,
    log_odds_N: np.ndarray,
    units_N: np.ndarray,
    resamples: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """The same metrics of every resample, [R] each. torchmetrics takes one at a time: minutes instead of a second."""
    if not len(labels_N):
        return {}
    parts = [
        _weighted(labels_N, verdicts_N, log_odds_N, w_RN)
        for w_RN in _resamples(units_N, resamples, seed)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _weighted(
    labels_N: np.ndarray, verdicts_N: np.ndarray, log_odds_N: np.ndarray, weights_RN: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics of rows that count `weights_RN` times."""
    rows = weights_RN.sum(axis=1)  # [R]: questions differ in size
    probabilities_N = sigmoid(log_odds_N)
    off_N = probabilities_N - labels_N
    bins_N = np.digitize(probabilities_N, np.linspace(0, 1, ECE_BINS + 1))
    columns_NK = np.column_stack(
        [
            labels_N & verdicts_N,
            ~labels_N & verdicts_N,
            labels_N & ~verdicts_N,
            ~labels_N & ~verdicts_N,
            off_N**2,
            np.logaddexp(0, np.where(labels_N, -log_odds_N, log_odds_N)),
            off_N[:, None] * (bins_N[:, None] == np.unique(bins_N)),
        ]
    )
    sums_RK = weights_RN @ columns_NK
    tp, fp, fn, tn, squares, losses = sums_RK.T[:6]

    order_N = np.argsort(-log_odds_N, kind="stable")
    ordered_N = log_odds_N[order_N]
    firsts_G = np.flatnonzero(np.r_[True, ordered_N[1:] != ordered_N[:-1]])
    positive_RG = np.add.reduceat(weights_RN[:, order_N] * labels_N[order_N], firsts_G, axis=1)
    negative_RG = np.add.reduceat(weights_RN[:, order_N] * ~labels_N[order_N], firsts_G, axis=1)
    found_RG = positive_RG.cumsum(axis=1)
    false_RG = negative_RG.cumsum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = tp / (tp + fn)
        precision_RG = np.where(positive_RG > 0, found_RG / (found_RG + false_RG), 0)
        return {
            "accuracy": (tp + tn) / rows,
            "balanced_accuracy": (recall + tn / (tn + fp)) / 2,
            "precision": tp / (tp + fp),
            "recall": recall,
            "f1": 2 * tp / (2 * tp + fp + fn),
            "mcc": (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
            "auroc": (negative_RG * (found_RG - positive_RG / 2)).sum(axis=1)
            / ((tp + fn) * (tn + fp)),
            "average_precision": (positive_RG * precision_RG).sum(axis=1) / (tp + fn),
            "brier": squares / rows,
            "ece": np.abs(sums_RK[:, 6:]).sum(axis=1) / rows,
            "log_loss": losses / rows,
        }


def _units(rows: int, question_ids_N: np.ndarray | None) -> np.ndarray:
    """What is drawn as one, int64 [N]: questions, or single rows, numbered in the order in which they first appear."""
    if question_ids_N is None:
        return np.arange(rows)
    _, firsts_Q, inverse_N = np.unique(question_ids_N, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(firsts_Q))[inverse_N])


def _resamples(units_N: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each resample took each row: float64 [R, N], a few R at a time."""
    rng = np.random.default_rng(seed)
    units, step = int(units_N.max()) + 1, max(1, _HELD // len(units_N))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        picks = rng.integers(0, units, (size, units)) + units * np.arange(size)[:, None]
        weights_RQ = np.bincount(picks.ravel(), minlength=size * units).reshape(size, units)
        yield weights_RQ[:, units_N].astype(np.float64)


def _interval(drawn_R: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the resamples in which the metric is defined; nan where that is none."""
    defined = drawn_R[~np.isnan(drawn_R)]
    low, high = np.quantile(defined, INTERVAL) if len(defined) else (math.nan,) * 2
    return float(low), float(high)


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value
