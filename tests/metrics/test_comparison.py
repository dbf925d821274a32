"""Means over seeds and paired differences, against numbers made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.metrics.comparison import (
    COMPARED,
    EvaluatedRun,
    Interval,
    mean_over_seeds,
    paired_difference,
    resampled_metrics,
    t_quantile,
)
from mv_lightning.metrics.scores import score


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (9, 2.26216), (30, 2.04227), (1000, 1.96234)],
)
def test_quantiles_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, rel=2e-5)


def test_mean_over_three_seeds() -> None:
    # Standard deviation 0.02, so 4.30265 x 0.02 / sqrt(3).
    interval = mean_over_seeds([0.6, 0.62, 0.64])
    half = 4.30265 * 0.02 / math.sqrt(3)
    expected = (0.62, 0.62 - half, 0.62 + half)
    assert (interval.value, interval.low, interval.high) == pytest.approx(expected, rel=1e-4)


def test_a_single_seed_has_no_interval() -> None:
    interval = mean_over_seeds([0.7])
    assert interval.value == 0.7 and math.isnan(interval.low) and math.isnan(interval.high)
    assert interval.to_json() == {"value": 0.7, "interval": [None, None]}
    assert Interval(1.0, 0.5, math.inf).to_json() == {"value": 1.0, "interval": [0.5, "inf"]}


def make_run(right_N: list[bool]) -> EvaluatedRun:
    """Six rows of three questions, and whether each verdict is right."""
    labels_N = np.array([True, False, True, False, True, False])
    signs_N = np.where(labels_N == np.array(right_N), 1.0, -1.0)
    return EvaluatedRun(labels_N, signs_N, np.array([7, 7, 2, 2, 5, 5]))


def test_paired_differences_by_hand() -> None:
    better = make_run([True, True, True, True, False, False])
    worse = make_run([True, True, False, False, False, False])
    resampled = resampled_metrics([better, worse], resamples=400)["accuracy"]
    # Of three questions, that of the rows 2 and 3 decides: it is drawn 0 to 3 times of 3.
    differences_R = resampled[:, 0] - resampled[:, 1]
    assert set(np.round(3 * differences_R).tolist()) == {0, 1, 2, 3}
    values = [run.values()["accuracy"] for run in (better, worse)]
    difference = paired_difference(values[:1], values[1:], resampled[:, :1], resampled[:, 1:])
    assert difference.value == pytest.approx(1 / 3)
    assert difference.low == 0 and difference.high == pytest.approx(1)


def test_equal_runs_do_not_differ_at_all() -> None:
    run = make_run([True, False, True, True, False, True])
    resampled = resampled_metrics([run, run, run], resamples=50)
    for name in COMPARED:
        values = [run.values()[name]] * 2
        both = resampled[name][:, :2]
        difference = paired_difference(values, values, both, resampled[name][:, [2, 2]])
        assert (difference.value, difference.low, difference.high) == (0, 0, 0), name


def test_the_difference_is_the_mean_over_seeds() -> None:
    resampled_RS = np.array([[0.1, 0.3], [0.1, 0.3]])
    reference_RS = np.array([[0.0, 0.1], [0.1, 0.1]])
    difference = paired_difference([0.6, 0.8], [0.5, 0.5], resampled_RS, reference_RS)
    assert difference.value == pytest.approx(0.2)
    assert (difference.low, difference.high) == pytest.approx((0.10125, 0.14875))


@given(st.integers(0, 2**32 - 1))
def test_the_resamples_of_a_lone_run_are_those_of_its_interval(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels_N = rng.random(40) < 0.5
    labels_N[:2] = [True, False]
    run = EvaluatedRun(labels_N, rng.normal(size=40), rng.integers(0, 12, 40))
    scores = score(labels_N, run.log_odds_N, 0.0, run.question_ids_N, resamples=50, seed=seed)
    resampled = resampled_metrics([run], resamples=50, seed=seed)
    for name, value in run.values().items():
        np.testing.assert_equal(value, scores.values[name])
        if not math.isnan(value):
            interval = np.nanquantile(resampled[name][:, 0], (0.025, 0.975))
            np.testing.assert_allclose(interval, scores.intervals[name])
