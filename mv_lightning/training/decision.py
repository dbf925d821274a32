"""Verdicts for predicted rows: calibration, threshold, and the share of True."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mv_lightning.artifacts.calibrations import AdapterCalibration
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.metrics.shift import estimate_true_share, threshold_at_share
from mv_lightning.training.settings import PredictSettings


@dataclass(frozen=True)
class Decision:
    """The calibrated log-odds of predicted rows, and where verdicts turn True."""

    log_odds_N: np.ndarray
    """float64 [N], calibrated."""
    threshold: float
    """Log-odds above it are a verdict of True."""
    summary: dict[str, Any]
    """What `prediction.json` states about it."""
    messages: tuple[str, ...]
    """Lines to print."""


def decide(
    raw_N: np.ndarray,
    calibration: Calibration,
    stored: AdapterCalibration | None,
    settings: PredictSettings,
    question_ids_N: np.ndarray,
) -> Decision:
    """Calibrate predicted rows, and choose the threshold that the settings ask for.

    Args:
        raw_N: [N], log-odds as the model gave them.
        calibration: What is applied to them.
        stored: What validation rows of the adapter left; None where there is nothing.
        settings: Of the prediction.
        question_ids_N: int64 [N], the question of each row.

    Raises:
        ValueError: The share of True is to be estimated without a calibration.
    """
    log_odds_N, threshold = calibration.apply(raw_N), calibration.threshold
    summary: dict[str, Any] = {"calibration": calibration.to_json()}
    messages = []
    if settings.threshold_share is not None:
        threshold = threshold_at_share(log_odds_N, settings.threshold_share)
        messages.append(
            f"threshold {threshold:.3f}: {settings.threshold_share:.1%} of the rows are True"
        )
    summary["threshold"] = threshold
    if settings.estimate_share:
        if stored is None:
            raise ValueError(
                "predict.estimate_share needs the calibration that a phase with validation rows "
                "leaves. Predict with such an adapter, or leave predict.estimate_share out"
            )
        # The evidence of the rows alone: without the shift to an expected share.
        unshifted_N = stored.calibration.apply(raw_N)
        share = estimate_true_share(unshifted_N, stored.train_share, question_ids_N)
        low, high = share.interval
        summary["estimated_true_share"] = {"value": share.value, "interval": [low, high]}
        messages.append(f"estimated share of True {share.value:.1%} ({low:.1%} to {high:.1%})")
    if stored is not None and settings.mode == "verdict":
        warning = stored.validated_range.warning(raw_N)
        if warning:
            summary["warning"] = warning
            messages.append(f"warning: {warning}")
    return Decision(log_odds_N, threshold, summary, tuple(messages))
