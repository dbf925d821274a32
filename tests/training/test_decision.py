"""Verdicts by a calibration or by a share; rows unlike those of validation give a warning."""

from __future__ import annotations

import numpy as np
import pytest

from mv_lightning.artifacts.calibrations import AdapterCalibration
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.metrics.shift import ValidatedRange
from mv_lightning.numerics import sigmoid
from mv_lightning.training.decision import decide
from mv_lightning.training.settings import PredictSettings

STORED = AdapterCalibration(Calibration(2.0, 0.5), 0.4, ValidatedRange(-6.0, 6.0, 500))


def rows(share: float, count: int = 4_000) -> np.ndarray:
    """Raw log-odds whose calibrated values (temperature 2) are right for 40 % of True."""
    rng = np.random.default_rng(0)
    labels_N = rng.random(count) < share
    evidence_N = rng.normal(np.where(labels_N, 1.0, -1.0), np.sqrt(2))
    return 2 * (evidence_N + np.log(0.4 / 0.6))


def decision(raw_N: np.ndarray, calibration: Calibration = STORED.calibration, **settings: object):
    questions_N = np.arange(len(raw_N)) // 2
    return decide(raw_N, calibration, STORED, PredictSettings(**settings), questions_N)  # type: ignore[arg-type]


def test_the_calibration_decides_by_default() -> None:
    result = decision(np.array([0.8, 1.2, -3.0]))
    assert result.log_odds_N.tolist() == [0.4, 0.6, -1.5] and result.threshold == 0.5
    assert result.messages == ()


@pytest.mark.parametrize("share", [0.25, 0.7])
def test_a_threshold_by_share(share: float) -> None:
    result = decision(rows(0.4), threshold_share=share)
    assert np.mean(result.log_odds_N > result.threshold) == pytest.approx(share, abs=1e-3)
    assert result.summary["threshold"] == result.threshold


def test_the_share_is_estimated_whatever_shift_is_applied() -> None:
    raw_N = rows(0.7)
    shifted = Calibration(2.0, 0.5, (0.4, 0.2))
    for calibration in (STORED.calibration, shifted):
        estimate = decision(raw_N, calibration, estimate_share=True).summary["estimated_true_share"]
        low, high = estimate["interval"]
        assert low < 0.7 < high and estimate["value"] == pytest.approx(0.7, abs=0.05)
    # Not the mean of the probabilities, which the share of the training rows pulls down.
    assert sigmoid(raw_N / 2).mean() < 0.65


def test_rows_outside_the_validated_range_give_a_warning() -> None:
    raw_N = rows(0.4)
    result = decision(raw_N + 12)
    assert any("outside the range" in message for message in result.messages)
    assert "outside the range" in result.summary["warning"]
    assert "warning" not in decision(np.clip(raw_N, -5, 5)).summary


def test_an_adapter_without_validation_has_no_estimate() -> None:
    with pytest.raises(ValueError, match=r"predict\.estimate_share needs the calibration"):
        decide(np.zeros(3), Calibration(), None, PredictSettings(estimate_share=True), np.arange(3))
