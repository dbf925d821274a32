"""Several verifiers as one: weights of an average of log-odds."""

from __future__ import annotations

import numpy as np

from mv_lightning.metrics.scores import both_classes
from mv_lightning.numerics import sigmoid

_STEPS = 300  # of the descent; it is at its end to six digits after some tens
_LONGEST = 5.0  # largest change of a factor's logarithm in one step


def fit_weights(labels_N: np.ndarray, log_odds_NM: np.ndarray) -> np.ndarray:
    """Find the average whose log loss is least once it has the temperature that suits it.

    Members that err independently are together surer than each alone, so the plain average of calibrated members is
    too timid. Were its scale held fixed, the loss would prefer one member alone to a better but timid average. So
    factors are sought that need not sum to 1, but may not be negative: logistic regression without an offset, followed
    down by exponentiated gradients (Kivinen and Warmuth 1997, Information and Computation 132(1)). Their shares are
    the weights; the scale is left to `calibration.fit_temperature`, which copes with rows judged without a mistake.

    Args:
        labels_N: bool [N], both classes; validation rows that no member was trained on.
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
        trial_M = factors_M * np.exp(np.clip(-step * slope_M, -_LONGEST, _LONGEST))
        if (reached := loss(trial_M)) < least:
            factors_M, least, step = trial_M, reached, 2 * step
        else:
            step /= 2
    return factors_M / factors_M.sum()
