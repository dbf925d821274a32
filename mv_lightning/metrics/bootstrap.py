"""Bootstrap intervals over rows, or over questions with all their rows.

Where several rows belong to one question, their verdicts are right or wrong together, and an
interval that takes the rows as independent is too narrow. Questions are then resampled with all
their rows (cluster bootstrap: Field and Welsh 2007, JRSS B 69(3); Cameron, Gelbach and Miller 2008,
Review of Economics and Statistics 90(3)). Suffixes of this file beside those of `schema.py`:

    R  bootstrap resamples
    Q  questions, or rows where the questions are not known
    K  columns that are averaged side by side
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from mv_lightning.schema import DEFAULT_SEED

RESAMPLES = 1_000
INTERVAL = (0.025, 0.975)
"""Quantiles of the resamples that bound a 95 % percentile interval (Efron and Tibshirani 1993)."""
_MAX_WEIGHTS = 4_000_000  # resamples x rows in memory at once: 32 MB


def resampling_units(rows: int, question_ids_N: np.ndarray | None) -> np.ndarray:
    """Number what is resampled as one: questions, or single rows where these are not known.

    Args:
        rows: N.
        question_ids_N: int64 [N], the question of each row, or None.

    Returns:
        int64 [N], from 0, in the order of first appearance.
    """
    if question_ids_N is None:
        return np.arange(rows)
    _, firsts_Q, inverse_N = np.unique(question_ids_N, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(firsts_Q))[inverse_N])


def resample_weights(units_N: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each resample holds each row: float64 [R, N], a few resamples at a time.

    Args:
        units_N: See `resampling_units`; at least one row.
        resamples: Of all arrays together.
        seed: Same seed, same resamples.
    """
    rng = np.random.default_rng(seed)
    units = int(units_N.max()) + 1
    step = max(1, _MAX_WEIGHTS // len(units_N))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        picks = rng.integers(0, units, (size, units)) + units * np.arange(size)[:, None]
        weights_RQ = np.bincount(picks.ravel(), minlength=size * units).reshape(size, units)
        yield weights_RQ[:, units_N].astype(np.float64)


def percentile_interval(values_R: np.ndarray) -> tuple[float, float]:
    """Return the middle 95 % of the resamples in which a value is defined; nan if there is none.

    Args:
        values_R: float64 [R], nan where a resample does not define the value.
    """
    defined = values_R[~np.isnan(values_R)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, INTERVAL)
    return float(low), float(high)


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
        question_ids_N: int64 [N], the question of each row; None where rows are independent.
        resamples: Bootstrap resamples.
        seed: Seed of the resamples.

    Returns:
        float64 [K, 2], lower and upper end; nan without rows.
    """
    rows, columns = values_NK.shape
    if rows == 0:
        return np.full((columns, 2), math.nan)
    units_N = resampling_units(rows, question_ids_N)
    means = [
        weights_RN @ values_NK / weights_RN.sum(axis=1, keepdims=True)
        for weights_RN in resample_weights(units_N, resamples, seed)
    ]
    return np.quantile(np.concatenate(means), INTERVAL, axis=0).T


def mean_with_interval(
    values_N: np.ndarray, question_ids_N: np.ndarray | None = None
) -> dict[str, Any]:
    """Return a mean and its interval as plain values: `value` and `interval`.

    Args:
        values_N: [N], at least one.
        question_ids_N: As for `mean_interval`.
    """
    interval = mean_interval(values_N[:, None], question_ids_N)[0].tolist()
    return {"value": float(values_N.mean()), "interval": interval}
