"""Calibration corrects probabilities and never changes the ranking of two rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.metrics.calibration import (
    Calibration,
    fit_calibration,
    fit_temperature,
    fit_threshold,
)
from mv_lightning.metrics.scores import metric_values

SHARE = st.floats(0.01, 0.99)
CALIBRATIONS = st.builds(
    Calibration, st.floats(0.01, 100), st.floats(-10, 10), st.none() | st.tuples(SHARE, SHARE)
)
ODDS = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=2, max_size=30)


def honest(rows: int, seed: int, share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the probabilities of their own log-odds."""
    rng = np.random.default_rng(seed)
    log_odds_N = rng.normal(0, 2, rows) + np.log(share / (1 - share))
    return rng.random(rows) < 1 / (1 + np.exp(-log_odds_N)), log_odds_N


@given(calibration=CALIBRATIONS, odds=ODDS)
def test_the_ranking_never_changes(calibration: Calibration, odds: list[float]) -> None:
    ranked_N = np.sort(odds)
    assert (np.diff(calibration.apply(ranked_N)) >= 0).all()
    assert (np.diff(calibration.decide(ranked_N).astype(int)) >= 0).all()


@given(odds=ODDS, seed=st.integers(0, 1000))
def test_every_fit_keeps_the_ranking_and_does_not_raise_the_loss(
    odds: list[float], seed: int
) -> None:
    log_odds_N = np.array(odds)
    labels_N = np.random.default_rng(seed).random(len(odds)) < 0.5
    labels_N[:2] = [True, False]
    calibration = fit_calibration(labels_N, log_odds_N)
    assert (np.diff(calibration.apply(np.sort(odds))) >= 0).all()

    def loss(odds_N: np.ndarray) -> float:
        return float(np.logaddexp(0, np.where(labels_N, -odds_N, odds_N)).mean())

    assert loss(calibration.apply(log_odds_N)) <= loss(log_odds_N) * (1 + 1e-6) + 1e-9
    assert (calibration.decide(log_odds_N) == labels_N).sum() >= (
        (log_odds_N > 0) == labels_N
    ).sum()
    right = ((log_odds_N > fit_threshold(labels_N, log_odds_N)) == labels_N).sum()
    assert right >= max(((log_odds_N > 0) == labels_N).sum(), labels_N.sum(), (~labels_N).sum())


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    labels_N, log_odds_N = honest(20_000, 1)
    assert fit_temperature(labels_N, log_odds_N * temperature) == pytest.approx(
        temperature, rel=0.05
    )
    calibrated = Calibration(fit_temperature(labels_N, log_odds_N * temperature)).apply(
        log_odds_N * temperature
    )
    assert metric_values(labels_N, calibrated)["ece"] < 0.015


def test_the_fitted_temperature_is_a_minimum() -> None:
    labels_N, log_odds_N = honest(300, 2)
    log_odds_N *= 3
    best = fit_temperature(labels_N, log_odds_N)

    def loss(temperature: float) -> float:
        return metric_values(labels_N, log_odds_N / temperature)["log_loss"]

    assert loss(best) <= min(loss(best * 0.99), loss(best * 1.01))


@pytest.mark.parametrize(
    "log_odds",
    [[3.0, 1.0, -1.0, -2.0], [-3.0, -1.0, 1.0, 2.0], [0.0] * 4, [1.0] * 4],
    ids=["separable", "all wrong", "zeros", "constant"],
)
def test_rows_without_a_best_temperature_keep_it_at_one(log_odds: list[float]) -> None:
    assert fit_temperature(np.array([True, True, False, False]), np.array(log_odds)) == 1


@pytest.mark.parametrize(
    "log_odds",
    [[3.0, 0.5, -1.0, -2.0], [3.0, 0.0, -1.0, -2.0], [3.0, -3.0, 3.0, -3.0]],
    ids=["separable", "separable but for a zero", "not informative"],
)
def test_many_rows_without_a_best_temperature_keep_it_at_one(log_odds: list[float]) -> None:
    """So many that the likelihood-ratio test rejects 1."""
    labels_N = np.tile([True, True, False, False], 200)
    assert fit_temperature(labels_N, np.tile(log_odds, 200)) == 1


def test_hardly_informative_rows_get_a_temperature_above_their_largest_log_odds() -> None:
    """The slope is zero where 3 x 51 sigmoid(-3 / T) = 3 x 49 sigmoid(3 / T)."""
    labels_N = np.arange(200) % 2 == 0
    right_N = np.arange(200) < 102
    log_odds_N = np.where(labels_N == right_N, 3.0, -3.0)
    assert fit_temperature(labels_N, log_odds_N) == pytest.approx(3 / np.log(51 / 49))
    # The sum of the log-odds of right rows less those of wrong rows is positive, but small.
    small_N = np.r_[np.where(labels_N == (np.arange(200) < 100), 3.0, -3.0), 0.5]
    assert fit_temperature(np.r_[labels_N, True], small_N) > 100


def test_all_but_separable_rows_give_a_usable_temperature() -> None:
    labels_N = np.array([True, False] * 50 + [False])
    assert 0 < fit_temperature(labels_N, np.array([3.0, -3.0] * 50 + [1e-300])) < 1


def test_the_temperature_moves_only_beyond_chance() -> None:
    """Forty rows of a calibrated model nearly always keep 1; overconfident ones seldom."""
    drawn = [honest(40, seed) for seed in range(100)]
    moved = [
        sum(fit_temperature(labels_N, factor * odds_N) != 1 for labels_N, odds_N in drawn)
        for factor in (1, 4)
    ]
    assert moved[0] <= 12 and moved[1] >= 90


def test_copies_of_rows_move_nothing_that_one_of_each_does_not() -> None:
    """Eight copies of forty rows look like evidence, unless they are known for one question."""
    drawn = [honest(40, seed) for seed in range(50)]
    questions_N = np.repeat(np.arange(40), 8)
    moved = 0
    for labels_N, odds_N in drawn:
        copies = np.repeat(labels_N, 8), np.repeat(odds_N, 8)
        assert fit_calibration(*copies, questions_N).temperature == pytest.approx(
            fit_temperature(labels_N, odds_N)
        )
        moved += fit_temperature(*copies) != 1
    assert moved > 15


@pytest.mark.parametrize("fit", [fit_temperature, fit_threshold, fit_calibration])
@pytest.mark.parametrize("labels", [[], [True, True], [False]])
def test_one_class_cannot_be_calibrated_on(fit: object, labels: list[bool]) -> None:
    with pytest.raises(ValueError, match="expected rows of both classes"):
        fit(np.array(labels, dtype=bool), np.ones(len(labels)))  # type: ignore[operator]


@pytest.mark.parametrize(("shift", "moved"), [(0.0, False), (3.0, True)])
def test_the_threshold_moves_only_beyond_chance(shift: float, moved: bool) -> None:
    rng = np.random.default_rng(0)
    labels_N = rng.random(200) < 0.5
    log_odds_N = rng.normal(2.0 * (2 * labels_N - 1), 2.0) + shift
    assert fit_threshold(labels_N, log_odds_N) != 0
    assert (fit_calibration(labels_N, log_odds_N).threshold != 0) == moved


def test_the_threshold_is_the_most_accurate_and_nearest_to_zero() -> None:
    labels_N = np.array([False, False, True, True])
    assert fit_threshold(labels_N, np.array([1.0, 2.0, 3.5, 5.0])) == 2.75
    assert fit_threshold(labels_N, np.array([-5.0, -4.0, 7.0, 8.0])) == 0
    assert fit_threshold(np.array([True, True, False]), np.array([1.0, 2.0, 3.0])) == 0


def test_a_shift_of_the_prior_is_bayes_rule() -> None:
    """Rows thinned out to 40 % True are calibrated again once their prior is told."""
    labels_N, log_odds_N = honest(200_000, 3)
    kept_N = ~labels_N | (np.random.default_rng(0).random(len(labels_N)) < 2 / 3)
    labels_N, log_odds_N = labels_N[kept_N], log_odds_N[kept_N]
    assert labels_N.mean() == pytest.approx(0.4, abs=0.01)
    shifted_N = Calibration(prior=(0.5, 0.4)).apply(log_odds_N)
    before, after = (metric_values(labels_N, odds_N) for odds_N in (log_odds_N, shifted_N))
    assert after["ece"] < 0.005 < 0.02 < before["ece"] and after["accuracy"] > before["accuracy"]
    assert Calibration(prior=(0.5, 0.4)).apply(np.array([0.0])) == pytest.approx(np.log(0.4 / 0.6))
    odds = (0.4 / 0.6) / (0.3 / 0.7)
    from_three_tenths_N = Calibration(prior=(0.3, 0.4)).apply(np.array([0.0]))
    assert from_three_tenths_N == pytest.approx(np.log(odds))


def test_log_odds_of_any_type_are_calibrated_in_double_precision() -> None:
    for dtype in (np.float32, np.int64):
        calibrated_N = Calibration(temperature=3.0).apply(np.array([1, 2], dtype=dtype))
        assert calibrated_N.dtype == np.float64 and calibrated_N.tolist() == [1 / 3, 2 / 3]


def test_copies_of_rows_do_not_move_the_threshold() -> None:
    """Twelve rows do not; thirty copies of them do, unless they are known for one question."""
    labels_N = np.array([True] * 6 + [False] * 6)
    log_odds_N = np.array([3.0, 2.5, 2.0, 1.5, 1.2, 1.0, 0.4, 0.2, -0.5, -1.0, -2.0, -2.5])
    assert fit_threshold(labels_N, log_odds_N) == pytest.approx(0.7)
    copies = np.repeat(labels_N, 30), np.repeat(log_odds_N, 30)
    assert fit_calibration(*copies, np.repeat(np.arange(12), 30)).threshold == 0
    assert fit_calibration(*copies).threshold != 0


@given(calibration=CALIBRATIONS)
def test_it_survives_json(calibration: Calibration) -> None:
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration


@pytest.mark.parametrize(
    "mistake",
    [
        {"temperature": 0.0},
        {"temperature": float("inf")},
        {"threshold": float("nan")},
        {"prior": (0.5, 1.0)},
        {"prior": (0.0, 0.5)},
        {"prior": (0.5,)},
    ],
)
def test_impossible_values_are_refused(mistake: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected (a positive|two shares)"):
        Calibration(**mistake)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="with the keys"):
        Calibration.from_json(mistake)
