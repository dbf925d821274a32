"""Weights for the average of several verifiers' log-odds."""

from __future__ import annotations

import numpy as np

from mv_lightning.metrics.scores import both_classes
from mv_lightning.numerics import sigmoid

_STEPS = 300  # of the descent; a few tens suffice for six digits
_MAX_CHANGE = 5.0  # of a factor's logarithm in one step


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
        ValueError: A class is missing, the arrays do not fit each other, or a log-odds is not finite.
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
