"""The share of True is found without labels, and rows that validation did not see are noticed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.metrics.shift import ValidatedRange, estimate_true_share, threshold_at_share

ODDS = st.lists(st.floats(-30, 30), min_size=1, max_size=40)


def predicted(rows: int, train_share: float, true_share: float, seed: int) -> np.ndarray:
    """Calibrated log-odds for `train_share`, of rows that are True with `true_share`.

    True rows have normal evidence around 1, False rows around -1, both of variance 2: the
    log-likelihood ratio of such evidence is the evidence itself.
    """
    rng = np.random.default_rng(seed)
    labels_N = rng.random(rows) < true_share
    evidence_N = rng.normal(2 * labels_N - 1, np.sqrt(2))
    return evidence_N + np.log(train_share / (1 - train_share))


def likelihood(share: float, log_odds_M: np.ndarray, train_share: float) -> float:
    ratio_M = np.exp(log_odds_M) * (1 - train_share) / train_share
    return float(np.log(share * ratio_M + 1 - share).mean())


@pytest.mark.parametrize("train_share", [0.3, 0.5])
@pytest.mark.parametrize("true_share", [0.1, 0.4, 0.85])
def test_a_known_share_is_found(train_share: float, true_share: float) -> None:
    found = estimate_true_share(predicted(20_000, train_share, true_share, 1), train_share)
    low, high = found.interval
    assert found.value == pytest.approx(true_share, abs=0.02)
    assert low < found.value < high and 0.005 < high - low < 0.04


def test_the_interval_covers_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(60):
        low, high = estimate_true_share(
            predicted(300, 0.6, 0.25, seed), 0.6, resamples=200
        ).interval
        covered += low <= 0.25 <= high
    assert 51 <= covered <= 60


@given(odds=ODDS, train_share=st.floats(0.05, 0.95))
def test_no_other_share_is_likelier(odds: list[float], train_share: float) -> None:
    log_odds_M = np.array(odds)
    found = estimate_true_share(log_odds_M, train_share, resamples=5)
    margin = 0.5 / len(odds)
    assert margin <= found.value <= 1 - margin
    best = likelihood(found.value, log_odds_M, train_share)
    for share in np.linspace(margin, 1 - margin, 25):
        assert likelihood(float(share), log_odds_M, train_share) <= best + 1e-4


def test_the_bootstrap_estimates_the_same_share() -> None:
    """Copies of one question give every resample the rows themselves: the grid equals EM."""
    log_odds_M = predicted(400, 0.5, 0.3, 5)
    found = estimate_true_share(log_odds_M, 0.5, np.zeros(400, dtype=int), resamples=3)
    assert found.interval == pytest.approx((found.value, found.value), abs=1e-4)


def test_questions_widen_the_interval() -> None:
    copies_M = np.repeat(predicted(200, 0.5, 0.3, 6), 8)
    questions_M = np.repeat(np.arange(200), 8)
    rows = estimate_true_share(copies_M, 0.5)
    questions = estimate_true_share(copies_M, 0.5, questions_M)
    assert questions.value == rows.value
    assert np.ptp(questions.interval) > 2 * np.ptp(rows.interval)


@pytest.mark.parametrize(
    ("odds", "share"), [([], 0.5), ([1.0, np.nan], 0.5), ([1.0], 0.0), ([1.0], 1.0)]
)
def test_what_gives_no_share_is_refused(odds: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="expected finite log-odds of at least one row"):
        estimate_true_share(np.array(odds), share)


def test_a_threshold_at_a_share_by_hand() -> None:
    log_odds_M = np.array([0.0, -3.0, 5.0, 1.0, 2.0])
    assert threshold_at_share(log_odds_M, 0.4) == 1.5
    assert threshold_at_share(log_odds_M, 0.2) == 3.5
    assert threshold_at_share(log_odds_M, 0.001) == 5.0
    assert threshold_at_share(log_odds_M, 0.999) == -4.0
    # Three equal ones cannot be separated: 1 of 4 is nearer to 0.3 than 4 of 4.
    assert threshold_at_share(np.array([7.0, 7.0, 7.0, 9.0]), 0.3) == 8.0


@given(odds=ODDS, share=st.floats(0.01, 0.99))
def test_a_threshold_at_a_share_gives_it_but_for_ties(odds: list[float], share: float) -> None:
    log_odds_M = np.array(odds)
    above = np.count_nonzero(log_odds_M > threshold_at_share(log_odds_M, share))
    _, ties = np.unique(log_odds_M, return_counts=True)
    assert abs(above - share * len(odds)) <= ties.max() / 2 + 1e-9


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share of True between 0 and 1"):
        threshold_at_share(np.array([1.0]), share)


def test_rows_like_those_of_validation_give_no_warning() -> None:
    rng = np.random.default_rng(0)
    warnings = 0
    for _ in range(50):
        validated = ValidatedRange.of(rng.normal(1, 2, 60))
        warnings += validated.warning(rng.normal(1, 2, 500)) is not None
    assert warnings <= 3
    assert validated.warning(np.array([99.0, 99.0])) is None
    assert validated.warning(np.array([])) is None


def test_rows_outside_the_range_give_a_warning() -> None:
    validated = ValidatedRange.of(np.linspace(-2, 4, 601))
    assert (validated.low, validated.high) == pytest.approx((-1.94, 3.94))
    warning = str(validated.warning(np.r_[np.full(40, -3.0), np.full(10, 5.0), np.zeros(50)]))
    assert "50% of the 100 predicted rows" in warning
    assert "601 validation rows, -1.94 to 3.94 (expected 2%; 40% below, 10% above)" in warning
    assert ValidatedRange.from_json(json.loads(json.dumps(validated.to_json()))) == validated
