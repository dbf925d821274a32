"""Comparisons of runs: means over seeds, and differences on the same rows.

Two sources of chance are kept apart. Another seed draws other rows and adapters: the interval of
Student's t over seeds covers it. Other questions could have been asked: the bootstrap over
questions covers it, and as all runs are resampled together, differences between them are paired.
Suffixes of this file beside those of `schema.py`:

    R  bootstrap resamples
    M  runs
    S  runs that differ in their seed only
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mv_lightning.metrics.bootstrap import (
    INTERVAL,
    RESAMPLES,
    percentile_interval,
    resample_weights,
    resampling_units,
)
from mv_lightning.metrics.scores import metric_values
from mv_lightning.metrics.weighted import weighted_metrics
from mv_lightning.schema import DEFAULT_SEED

COMPARED = ("accuracy", "auroc", "auroc_within_question", "log_loss")
"""The metrics that runs are compared by."""
_ANGLES = 20_001  # of the numerical integral: six digits of the quantile


@dataclass(frozen=True)
class EvaluatedRun:
    """The rows that a run was evaluated on."""

    labels_N: np.ndarray
    """bool [N]."""
    log_odds_N: np.ndarray
    """float64 [N]."""
    question_ids_N: np.ndarray
    """int64 [N]; the same question has the same number in all runs."""

    def values(self) -> dict[str, float]:
        """Return the metrics `COMPARED`; nan where one is undefined."""
        values = metric_values(self.labels_N, self.log_odds_N, question_ids_N=self.question_ids_N)
        return {name: values[name] for name in COMPARED}


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval; nan where one is undefined."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values as `metrics.json` has them; nan becomes null, infinity "inf"."""
        return {"value": _plain(self.value), "interval": [_plain(self.low), _plain(self.high)]}


def mean_over_seeds(values_S: Sequence[float]) -> Interval:
    """Return the mean of a value over runs, with the 95 % interval of Student's t.

    Args:
        values_S: The value in each run; the interval of a single one is undefined.
    """
    mean = float(np.mean(values_S))
    if len(values_S) < 2:
        return Interval(mean, math.nan, math.nan)
    error = float(np.std(values_S, ddof=1)) / math.sqrt(len(values_S))
    half = t_quantile(len(values_S) - 1) * error
    return Interval(mean, mean - half, mean + half)


def t_quantile(degrees: int) -> float:
    """Return the t that Student's distribution exceeds, in absolute value, with 5 %.

    With t = sqrt(degrees) tan(a) the density is proportional to cos(a)^(degrees - 1), whose
    integral is bounded.

    Args:
        degrees: Degrees of freedom, 1 or more.
    """
    angles = np.linspace(0, math.pi / 2, _ANGLES)
    density = np.cos(angles) ** (degrees - 1)
    steps = (density[1:] + density[:-1]) / 2
    share = np.concatenate([[0.0], steps.cumsum() / steps.sum()])
    inside = INTERVAL[1] - INTERVAL[0]
    return math.sqrt(degrees) * math.tan(float(np.interp(inside, share, angles)))


def resampled_metrics(
    runs: Sequence[EvaluatedRun], resamples: int = RESAMPLES, seed: int = DEFAULT_SEED
) -> dict[str, np.ndarray]:
    """Compute the metrics of runs under the same bootstrap resamples of the questions.

    Args:
        runs: M runs, at least one.
        resamples: Bootstrap resamples.
        seed: Seed of the resamples. Same arguments, same numbers.

    Returns:
        float64 [R, M] for each metric of `COMPARED`; nan where a resample does not define it.
    """
    units_N = resampling_units(
        sum(len(run.labels_N) for run in runs), np.concatenate([run.question_ids_N for run in runs])
    )
    ends = np.cumsum([len(run.labels_N) for run in runs])
    parts: list[list[dict[str, np.ndarray]]] = [[] for _ in runs]
    for weights_RN in resample_weights(units_N, resamples, seed):
        split = np.split(weights_RN, ends[:-1], axis=1)
        for run, weights, part in zip(runs, split, parts, strict=True):
            verdicts_N = run.log_odds_N > 0
            part.append(
                weighted_metrics(
                    run.labels_N, verdicts_N, run.log_odds_N, weights, run.question_ids_N
                )
            )
    metrics = {}
    for name in COMPARED:
        columns = [np.concatenate([values[name] for values in part]) for part in parts]
        metrics[name] = np.stack(columns, axis=1)
    return metrics


def paired_difference(
    values_S: Sequence[float],
    reference_S: Sequence[float],
    resampled_RS: np.ndarray,
    resampled_reference_RS: np.ndarray,
) -> Interval:
    """Return by how much a metric exceeds that of reference runs, on the same rows.

    Args:
        values_S: The metric in each run.
        reference_S: In the reference run of the same seed.
        resampled_RS: float64 [R, S], see `resampled_metrics`.
        resampled_reference_RS: float64 [R, S], under the same resamples.

    Returns:
        The mean difference over the seeds, and its bootstrap interval over the questions.
    """
    differences_R = (resampled_RS - resampled_reference_RS).mean(axis=1)
    value = float(np.mean(np.subtract(values_S, reference_S)))
    return Interval(value, *percentile_interval(differences_R))


def _plain(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)
