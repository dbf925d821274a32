"""Several verifiers as one: calibrated members, a weighted average, and its gain over the best
member."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mv_lightning.metrics.bootstrap import mean_interval
from mv_lightning.metrics.calibration import Calibration, fit_temperature
from mv_lightning.metrics.scores import both_classes, metric_values, score
from mv_lightning.numerics import sigmoid

MIN_ROWS_PER_CLASS = 10
"""Validation rows of each class that weights and temperatures need at least."""
_STEPS = 300  # of the descent; a few tens suffice for six digits
_MAX_CHANGE = 5.0  # of a factor's logarithm in one step


@dataclass(frozen=True)
class EnsembleFit:
    """How the log-odds of members become those of the ensemble."""

    members: Sequence[Calibration]
    weights_M: np.ndarray
    """float64 [M], of sum 1: weights of the calibrated log-odds of M members."""
    ensemble: Calibration
    """Of the weighted average."""
    best: int | None = None
    """The member that is best on the validation rows; None without validation rows."""

    def calibrated(self, log_odds_NM: np.ndarray) -> np.ndarray:
        """Return the calibrated log-odds of each member, float64 [N, M].

        Args:
            log_odds_NM: float64 [N, M], a column per member.
        """
        return _calibrated(self.members, log_odds_NM)

    def average(self, log_odds_NM: np.ndarray) -> np.ndarray:
        """Return the calibrated log-odds of the ensemble, float64 [N].

        Args:
            log_odds_NM: float64 [N, M], a column per member.
        """
        return self.ensemble.apply(self.calibrated(log_odds_NM) @ self.weights_M)


def plain_average(members: int) -> EnsembleFit:
    """Return the ensemble that is the mean of its members' log-odds.

    Args:
        members: M.
    """
    return EnsembleFit([Calibration()] * members, np.full(members, 1 / members), Calibration())


def fit_ensemble(
    labels_N: np.ndarray, log_odds_NM: np.ndarray, question_ids_N: np.ndarray | None = None
) -> EnsembleFit:
    """Fit a temperature for each member, weights of the calibrated members, and a temperature of
    their average.

    Args:
        labels_N: bool [N], of validation rows that no member was trained on.
        log_odds_NM: float64 [N, M], a column per member.
        question_ids_N: int64 [N], the question of each row; None where rows are independent.

    Raises:
        ValueError: There are fewer than `MIN_ROWS_PER_CLASS` rows of a class.
    """
    true = int(labels_N.sum())
    if min(true, len(labels_N) - true) < MIN_ROWS_PER_CLASS:
        raise ValueError(
            f"expected at least {MIN_ROWS_PER_CLASS} validation rows of each class to fit weights "
            f"on, got {true} True and {len(labels_N) - true} False. Validate on more rows "
            "(data.splits.val_fraction), name labelled rows with --val-labels, or leave out "
            "--fit-weights: the plain average needs no such rows"
        )
    temperatures = [
        fit_temperature(labels_N, column_N, question_ids_N) for column_N in log_odds_NM.T
    ]
    members = [Calibration(temperature) for temperature in temperatures]
    calibrated_NM = _calibrated(members, log_odds_NM)
    weights_M = fit_weights(labels_N, calibrated_NM)
    temperature = fit_temperature(labels_N, calibrated_NM @ weights_M, question_ids_N)
    best = best_member(labels_N, calibrated_NM)
    return EnsembleFit(members, weights_M, Calibration(temperature), best)


def best_member(labels_N: np.ndarray, log_odds_NM: np.ndarray) -> int:
    """Return the column of the highest accuracy; of several, the one of the least log loss.

    Args:
        labels_N: bool [N].
        log_odds_NM: float64 [N, M], calibrated.
    """
    values = [metric_values(labels_N, column_N) for column_N in log_odds_NM.T]
    ranks = [(value["accuracy"], -value["log_loss"]) for value in values]
    return max(range(len(ranks)), key=ranks.__getitem__)


def compare_with_members(
    labels_N: np.ndarray, log_odds_NM: np.ndarray, question_ids_N: np.ndarray, fit: EnsembleFit
) -> dict[str, Any]:
    """Score the members and the ensemble, and measure the gain over the best member.

    The best member is the one on the validation rows; without those it is chosen on these rows,
    which favours it.

    Args:
        labels_N: bool [N].
        log_odds_NM: float64 [N, M], a column per member, as predicted.
        question_ids_N: int64 [N], the question of each row.
        fit: The ensemble.

    Returns:
        Plain values: `scores` of each member, those of the `ensemble`, `best` (a position),
        `best_on`, and the `gain` in accuracy (0 to 1) with its paired `gain_interval`.
    """
    calibrated_NM, average_N = fit.calibrated(log_odds_NM), fit.average(log_odds_NM)
    best = best_member(labels_N, calibrated_NM) if fit.best is None else fit.best
    right_N = (average_N > 0) == labels_N
    best_right_N = (calibrated_NM[:, best] > 0) == labels_N
    gain_N = right_N.astype(np.float64) - best_right_N
    scores = [
        score(labels_N, column_N, question_ids_N=question_ids_N) for column_N in calibrated_NM.T
    ]
    return {
        "scores": [of_member.to_json() for of_member in scores],
        "ensemble": score(labels_N, average_N, question_ids_N=question_ids_N).to_json(),
        "best": best,
        "best_on": "these rows" if fit.best is None else "validation rows",
        "gain": float(gain_N.mean()),
        "gain_interval": mean_interval(gain_N[:, None], question_ids_N)[0].tolist(),
    }


def fit_weights(labels_N: np.ndarray, log_odds_NM: np.ndarray) -> np.ndarray:
    """Find the weighted average of least log loss under the best temperature for each average.

    Members with independent errors deserve more confidence together than each of them does, so the
    plain average of calibrated members is underconfident. If its scale were fixed, the loss would
    prefer a single member to a better but underconfident average. So the factors need not sum to 1,
    but may not be negative: logistic regression without an offset, fitted by exponentiated
    gradients (Kivinen and Warmuth 1997, Information and Computation 132(1)). Their shares are the
    weights; the scale is left to `calibration.fit_temperature`, which also handles rows without a
    wrong verdict.

    Args:
        labels_N: bool [N], both classes, of validation rows that no member was trained on.
        log_odds_NM: float64 [N, M], calibrated, a column per member.

    Returns:
        float64 [M], not negative, of sum 1.

    Raises:
        ValueError: A class is missing, the arrays do not fit each other, or a log-odds is not
            finite.
    """
    for column_N in log_odds_NM.T:
        both_classes(labels_N, column_N)
    signed_NM = np.where(labels_N, 1.0, -1.0)[:, None] * log_odds_NM

    def loss(factors_M: np.ndarray) -> float:
        return float(np.logaddexp(0, -signed_NM @ factors_M).mean())

    members = log_odds_NM.shape[1]
    factors_M = np.full(members, 1 / members)
    least, step = loss(factors_M), 1.0
    for _ in range(_STEPS):
        wrong_N = sigmoid(-(signed_NM @ factors_M))
        slope_M = -(wrong_N @ signed_NM) / len(wrong_N)
        # Bounded, so that a long step is refused for its loss and not for an overflow.
        trial_M = factors_M * np.exp(np.clip(-step * slope_M, -_MAX_CHANGE, _MAX_CHANGE))
        trial_loss = loss(trial_M)
        if trial_loss < least:
            factors_M, least, step = trial_M, trial_loss, 2 * step
        else:
            step /= 2
    return factors_M / factors_M.sum()


def _calibrated(calibrations: Sequence[Calibration], log_odds_NM: np.ndarray) -> np.ndarray:
    pairs = zip(calibrations, log_odds_NM.T, strict=True)
    return np.column_stack([calibration.apply(column_N) for calibration, column_N in pairs])
