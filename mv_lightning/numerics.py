"""Functions of numbers that the straightforward formula gets wrong for large arguments."""

from __future__ import annotations

import numpy as np


def sigmoid(log_odds: np.ndarray) -> np.ndarray:
    """Return probabilities, 1 / (1 + exp(-log_odds)), of the argument's shape.

    `exp` alone overflows below -709; `logaddexp` does not.

    Args:
        log_odds: Any shape, in nats; nan stays nan.
    """
    with np.errstate(invalid="ignore"):  # logaddexp warns of nan
        probabilities: np.ndarray = np.exp(-np.logaddexp(0, -log_odds))
    return probabilities
