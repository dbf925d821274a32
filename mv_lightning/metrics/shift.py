"""Predicted rows that differ from the validation rows: another share of True, other log-odds.

Suffixes of this file beside those of `schema.py`:

    M  unlabelled rows that were predicted
    R  bootstrap resamples
    G  points of a grid of shares
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mv_lightning.metrics.bootstrap import (
    RESAMPLES,
    percentile_interval,
    resample_weights,
    resampling_units,
)
from mv_lightning.numerics import sigmoid
from mv_lightning.schema import DEFAULT_SEED

RANGE = (0.01, 0.99)
"""Quantiles of the validated log-odds that bound their range."""
MAX_OUTSIDE = 0.1
"""Share of the predicted rows outside of that range from which on a warning is due: five times the
expected one, and more than a few hundred validation rows give by chance."""

_TOLERANCE = 1e-9  # of the share between two steps of the EM algorithm
_MAX_STEPS = 10_000
_GRID = 201  # shares at which the likelihood's slope is evaluated for the resamples


@dataclass(frozen=True)
class ShareEstimate:
    """A share of True among unlabelled rows."""

    value: float
    """Between 0 and 1, exclusive."""
    interval: tuple[float, float]
    """95 % interval."""


def estimate_true_share(
    log_odds_M: np.ndarray,
    train_share: float,
    question_ids_M: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = DEFAULT_SEED,
) -> ShareEstimate:
    """Estimate the share of True among unlabelled rows from their predictions.

    By the EM algorithm of Saerens, Latinne and Decaestecker 2002 (Neural Computation 14(1), section
    2.2), whose fixed point is the maximum of a concave likelihood. It assumes that True and False
    rows look as in validation and only their shares differ, and that the log-odds are calibrated:
    errors of the calibration become errors of the estimate.

    Args:
        log_odds_M: [M], at least one row: calibrated, without a shift to another share.
        train_share: Share of True (0 to 1, exclusive) among the rows of the calibration.
        question_ids_M: int64 [M], the question of each row, resampled together; None where rows
            are independent.
        resamples: Bootstrap resamples.
        seed: Seed of the resamples.

    Raises:
        ValueError: There are no rows, a log-odds is not finite, or the share is out of range.
    """
    log_odds_M = np.asarray(log_odds_M, dtype=np.float64)
    if not len(log_odds_M) or not np.isfinite(log_odds_M).all() or not 0 < train_share < 1:
        raise ValueError(
            "expected finite log-odds of at least one row and a share of True between 0 and 1, got "
            f"{len(log_odds_M):,} rows, {np.count_nonzero(~np.isfinite(log_odds_M)):,} of them not "
            f"finite, and train_share={train_share}"
        )
    # Log-odds of the likelihoods: without the share that they were calibrated for.
    evidence_M = log_odds_M - _logit(train_share)
    margin = 0.5 / len(log_odds_M)
    share = float(np.clip(_expectation_maximization(evidence_M), margin, 1 - margin))
    units_M = resampling_units(len(log_odds_M), question_ids_M)
    shares_R = [
        _shares_on_grid(evidence_M, weights_RM, margin)
        for weights_RM in resample_weights(units_M, resamples, seed)
    ]
    return ShareEstimate(share, percentile_interval(np.concatenate(shares_R)))


def threshold_at_share(log_odds_M: np.ndarray, true_share: float) -> float:
    """Return the threshold that gives the expected share of verdicts of True.

    It needs no calibration, only the ranking, so it holds for rows of another source too if their
    share of True is known.

    Args:
        log_odds_M: [M], at least one row.
        true_share: Expected share of True (0 to 1, exclusive) among these rows.

    Returns:
        Half way between two neighbouring log-odds. Where rows with equal log-odds cannot be
        separated, the share that comes nearest.

    Raises:
        ValueError: There are no rows, or the share is out of range.
    """
    if not len(log_odds_M) or not 0 < true_share < 1:
        raise ValueError(
            "expected at least one row and a share of True between 0 and 1, got "
            f"{len(log_odds_M):,} rows and true_share={true_share}"
        )
    ordered_M = np.sort(np.asarray(log_odds_M, dtype=np.float64))
    distinct = np.unique(ordered_M)
    midpoints = distinct[:-1] + np.diff(distinct) / 2
    candidates = np.r_[distinct[0] - 1, midpoints, distinct[-1]]
    above = len(ordered_M) - np.searchsorted(ordered_M, candidates, "right")
    return float(candidates[np.abs(above - true_share * len(ordered_M)).argmin()])


@dataclass(frozen=True)
class ValidatedRange:
    """The range of the log-odds of validation rows, before calibration."""

    low: float
    high: float
    rows: int
    """Validation rows."""

    @classmethod
    def of(cls, log_odds_N: np.ndarray) -> ValidatedRange:
        """Return the range of validation rows.

        Args:
            log_odds_N: [N], at least one row, not calibrated.
        """
        low, high = np.quantile(log_odds_N, RANGE)
        return cls(float(low), float(high), len(log_odds_N))

    def warning(self, log_odds_M: np.ndarray) -> str | None:
        """Return a warning if the log-odds of predicted rows exceed the range, else None.

        The share outside must be larger than `MAX_OUTSIDE` by more than chance: a few rows never
        give a warning.

        Args:
            log_odds_M: [M], not calibrated.
        """
        if not len(log_odds_M):
            return None
        below = float(np.mean(log_odds_M < self.low))
        above = float(np.mean(log_odds_M > self.high))
        share = below + above
        error = math.sqrt(share * (1 - share) / len(log_odds_M))
        if share - 2 * error <= MAX_OUTSIDE or share * len(log_odds_M) < 3:
            return None
        expected = RANGE[0] + 1 - RANGE[1]
        return (
            f"the log-odds of {share:.0%} of the {len(log_odds_M):,} predicted rows are outside "
            f"the range of the {self.rows:,} validation rows, {self.low:.2f} to {self.high:.2f} "
            f"(expected {expected:.0%}; {below:.0%} below, {above:.0%} above). These rows differ "
            "from those that the temperature and the threshold were fitted on. Look at a few of "
            "them, and check the verdicts on labelled rows of this source"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values, to be stored with an adapter."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ValidatedRange:
        """Return the range that `to_json` stored.

        Raises:
            LookupError: A value is missing.
        """
        return cls(float(values["low"]), float(values["high"]), int(values["rows"]))


def _expectation_maximization(evidence_M: np.ndarray) -> float:
    """The share of True of highest likelihood, given the log-odds of the rows' likelihoods."""
    share = 0.5
    for _ in range(_MAX_STEPS):
        before = share
        # Both steps at once: the mean of the probabilities under the share so far.
        share = float(sigmoid(evidence_M + _logit(share)).mean())
        if abs(share - before) < _TOLERANCE or not 0 < share < 1:
            break
    return share


def _shares_on_grid(evidence_M: np.ndarray, weights_RM: np.ndarray, margin: float) -> np.ndarray:
    """The share of highest likelihood of each resample, [R].

    The likelihood is concave, so its slope falls: where it changes sign, between two points of a
    grid, it is interpolated. EM for a thousand resamples would take minutes.
    """
    shares_G = np.linspace(margin, 1 - margin, _GRID)
    # Slope of log(share * likelihood of True + (1 - share) * likelihood of False) for each row.
    log_shares_G = np.log(shares_G / (1 - shares_G))
    posterior_MG = sigmoid(evidence_M[:, None] + log_shares_G)
    slopes_RG = weights_RM @ (posterior_MG / shares_G - (1 - posterior_MG) / (1 - shares_G))
    last_R = np.count_nonzero(slopes_RG > 0, axis=1)
    inside_R = np.clip(last_R, 1, _GRID - 1)
    draws_R = np.arange(len(slopes_RG))
    left_R, right_R = slopes_RG[draws_R, inside_R - 1], slopes_RG[draws_R, inside_R]
    step = shares_G[1] - shares_G[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        found_R = shares_G[inside_R - 1] + step * left_R / (left_R - right_R)
    found_R = np.where(last_R == 0, shares_G[0], found_R)
    return np.where(last_R == _GRID, shares_G[-1], found_R)


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
