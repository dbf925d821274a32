"""Intervals take as independent what is resampled, and only that."""

from __future__ import annotations

import numpy as np
import pytest

from mv_lightning.metrics import bootstrap
from mv_lightning.metrics.bootstrap import (
    mean_interval,
    mean_with_interval,
    resample_weights,
    resampling_units,
)


def test_questions_of_different_sizes_weigh_by_their_rows() -> None:
    """Half of the rows are one question: its luck is the interval."""
    questions_N = np.r_[np.zeros(50, int), 1 + np.arange(50)]
    low, high = mean_interval(np.r_[np.ones(50), np.zeros(50)][:, None], questions_N)[0]
    assert low == 0 and high > 0.7


def test_paired_differences_have_a_narrower_interval_than_their_parts() -> None:
    base_N = np.random.default_rng(0).random(500)
    low, high = mean_interval(np.column_stack([base_N, base_N + 0.1, np.full(500, 0.1)])).T
    assert (high - low)[2] < 1e-9 < (high - low)[0]
    none = mean_interval(np.empty((0, 3)))
    assert none.shape == (3, 2) and np.isnan(none).all()


def test_a_mean_has_the_interval_of_its_column() -> None:
    values_N, questions_N = np.random.default_rng(1).random(60), np.arange(60) // 3
    measured = mean_with_interval(values_N, questions_N)
    interval = mean_interval(values_N[:, None], questions_N)[0].tolist()
    assert measured == {"value": values_N.mean(), "interval": interval}
    assert mean_with_interval(values_N)["interval"] != interval


def test_units_are_numbered_by_first_appearance() -> None:
    assert resampling_units(3, None).tolist() == [0, 1, 2]
    assert resampling_units(5, np.array([7, -1, 7, 3, -1])).tolist() == [0, 1, 0, 2, 1]


@pytest.mark.parametrize("max_weights", [1, 10, 4_000_000])
def test_a_resample_draws_whole_questions_as_many_as_there_are(
    max_weights: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many resamples fit into the memory at once does not change them."""
    units_N = np.array([0, 0, 1, 2, 2, 2])
    whole = np.concatenate(list(resample_weights(units_N, 20, seed=3)))
    monkeypatch.setattr(bootstrap, "_MAX_WEIGHTS", max_weights)
    weights_RN = np.concatenate(list(resample_weights(units_N, 20, seed=3)))
    assert weights_RN.shape == (20, 6) and (weights_RN[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert (weights_RN[:, 0] == weights_RN[:, 1]).all()
    assert np.array_equal(weights_RN[:, 3], weights_RN[:, 5])
    assert np.array_equal(weights_RN, whole)
