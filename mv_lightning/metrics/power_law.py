"""Learning curves: a power law that a verifier's error follows as training rows are added.

error(n) = floor + scale n^-exponent, see Hestness et al. 2017 (arXiv:1712.00409). Suffixes of this
file:

    P  points of the curve: a number of rows, and the error after training on them
    R  bootstrap resamples
    E  exponents that are tried
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_SIZES = 3
"""Different numbers of rows that the three parameters need at least."""
_EXPONENTS = np.geomspace(0.05, 2, 400)


@dataclass(frozen=True)
class PowerLaws:
    """R power laws."""

    floor_R: np.ndarray
    """Error that no number of rows gets below, 0 or more."""
    scale_R: np.ndarray
    """Error above the floor with one row, 0 or more."""
    exponent_R: np.ndarray

    def errors(self, rows_P: np.ndarray) -> np.ndarray:
        """Return the error of each law after training on a number of rows: [R, P].

        Args:
            rows_P: Numbers of rows.
        """
        powers_RP = np.asarray(rows_P, dtype=float) ** -self.exponent_R[:, None]
        return np.asarray(self.floor_R[:, None] + self.scale_R[:, None] * powers_RP)

    def rows_for(self, error: float) -> np.ndarray:
        """Return the rows after which each law has fallen to an error: [R], infinity for never.

        Args:
            error: The error.
        """
        above_R = error - self.floor_R
        reached_R = above_R > 0
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rows_R = (self.scale_R / above_R) ** (1 / self.exponent_R)
        return np.where(reached_R, rows_R, np.inf)


def fit_power_laws(rows_P: np.ndarray, errors_RP: np.ndarray) -> PowerLaws:
    """Fit a power law to each of several curves by least squares.

    For each exponent of a grid, floor and scale follow from linear regression; both are kept from
    being negative, as neither an error below 0 nor one that grows with the rows is meant.

    Args:
        rows_P: Numbers of rows, `MIN_SIZES` different ones at least.
        errors_RP: [R, P], the error at each of them.

    Raises:
        ValueError: There are too few different numbers of rows.
    """
    sizes = len(np.unique(rows_P))
    if sizes < MIN_SIZES:
        raise ValueError(
            f"expected {MIN_SIZES} different numbers of rows or more for a power law, got {sizes}. "
            "Add some"
        )
    x_EP = np.asarray(rows_P, dtype=float) ** -_EXPONENTS[:, None]
    mean_E, mean_R = x_EP.mean(axis=1), errors_RP.mean(axis=1)
    centred_EP = x_EP - mean_E[:, None]
    scale_RE = np.maximum(errors_RP @ centred_EP.T / (centred_EP**2).sum(axis=1), 0)
    floor_RE = mean_R[:, None] - scale_RE * mean_E
    # Where the floor would be negative, the best law with floor 0.
    through_zero_RE = errors_RP @ x_EP.T / (x_EP**2).sum(axis=1)
    scale_RE = np.where(floor_RE < 0, through_zero_RE, scale_RE)
    floor_RE = np.maximum(floor_RE, 0)
    predicted_REP = floor_RE[..., None] + scale_RE[..., None] * x_EP
    squares_RE = ((predicted_REP - errors_RP[:, None, :]) ** 2).sum(axis=2)
    best_R = squares_RE.argmin(axis=1)
    each_R = np.arange(len(errors_RP))
    return PowerLaws(floor_RE[each_R, best_R], scale_RE[each_R, best_R], _EXPONENTS[best_R])
