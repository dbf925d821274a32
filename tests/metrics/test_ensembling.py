"""Fitted weights are shares, and no others do better."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.metrics.calibration import fit_temperature
from mv_lightning.metrics.ensembling import fit_weights


def members(rows: int, seed: int, noises: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and members that see the same truth through noise of their own."""
    rng = np.random.default_rng(seed)
    labels_N = rng.random(rows) < 0.5
    labels_N[:2] = [True, False]
    signs = np.where(labels_N, 1.0, -1.0)[:, None]
    return labels_N, 2 * signs + np.array(noises) * rng.normal(size=(rows, len(noises)))


def loss(labels_N: np.ndarray, log_odds_N: np.ndarray) -> float:
    """Log loss at the temperature that suits the log-odds."""
    log_odds_N = log_odds_N / fit_temperature(labels_N, log_odds_N)
    return float(np.logaddexp(0, -np.where(labels_N, 1, -1) * log_odds_N).mean())


@given(
    seed=st.integers(0, 1000),
    noises=st.lists(st.floats(0, 9), min_size=1, max_size=4),
    rows=st.integers(2, 50),
)
def test_weights_are_shares(seed: int, noises: list[float], rows: int) -> None:
    weights_M = fit_weights(*members(rows, seed, noises))
    assert weights_M.min() >= 0 and weights_M.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "noises", [[2.0, 3.0, 6.0], [2.0, 2.0, 2.0], [1.5, 9.0, 9.0], [4.0, 4.0, 1.2]]
)
def test_the_best_of_a_fine_grid_is_reached(noises: list[float]) -> None:
    labels_N, log_odds_NM = members(400, 1, noises)
    grid = [np.array([a, b, 20 - a - b]) / 20 for a in range(21) for b in range(21 - a)]
    best = min(loss(labels_N, log_odds_NM @ weights_M) for weights_M in grid)
    assert loss(labels_N, log_odds_NM @ fit_weights(labels_N, log_odds_NM)) <= best + 1e-6


def test_members_that_err_independently_share_the_weight() -> None:
    labels_N, log_odds_NM = members(5_000, 3, [3.0, 3.0, 3.0])
    calibrated_NM = log_odds_NM / [
        fit_temperature(labels_N, column_N) for column_N in log_odds_NM.T
    ]
    assert fit_weights(labels_N, calibrated_NM) == pytest.approx([1 / 3] * 3, abs=0.03)


def test_noise_gets_little_and_copies_share() -> None:
    labels_N, log_odds_NM = members(2_000, 2, [1.0, 8.0])
    assert fit_weights(labels_N, log_odds_NM)[1] < 0.05
    assert fit_weights(labels_N, log_odds_NM[:, [0, 0]]) == pytest.approx([0.5, 0.5])


def test_rows_of_one_class_are_refused() -> None:
    with pytest.raises(ValueError, match="expected rows of both classes"):
        fit_weights(np.array([True, True]), np.ones((2, 2)))
