"""The calibration of an adapter: fitted on validation rows, stored beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mv_lightning.artifacts.layout import CALIBRATION_FILE
from mv_lightning.metrics.calibration import Calibration, fit_calibration
from mv_lightning.metrics.shift import ValidatedRange
from mv_lightning.schema import EvalOutputs
from mv_lightning.versioning import read_versioned_json, write_versioned_json


@dataclass(frozen=True)
class AdapterCalibration:
    """What the validation rows tell about an adapter's log-odds."""

    calibration: Calibration
    train_share: float
    """Share of True (0 to 1) among the training rows: what a prior shift starts from."""
    validated_range: ValidatedRange
    """Range of the log-odds of the validation rows, not calibrated."""


def save_calibration(adapter: Path, outputs: EvalOutputs, train_share: float) -> None:
    """Fit temperature and threshold on validation rows, and store them with the adapter.

    Args:
        adapter: The folder of the adapter that was validated. Nothing is stored where all rows
            have one label.
        outputs: Of the validation rows.
        train_share: Share of True (0 to 1) among the training rows: what a prior shift starts from.
    """
    if len(np.unique(outputs.labels_N)) < 2:
        return
    calibration = fit_calibration(outputs.labels_N, outputs.log_odds_N, outputs.question_ids_N)
    values = {
        "calibration": calibration.to_json(),
        "train_share": train_share,
        "validated_range": ValidatedRange.of(outputs.log_odds_N).to_json(),
    }
    write_versioned_json(adapter / CALIBRATION_FILE, values)


def read_calibration(adapter: Path) -> AdapterCalibration | None:
    """Return what is stored with an adapter; None where there is nothing.

    Args:
        adapter: Its folder.

    Raises:
        ValueError: The file is damaged or of another format version.
    """
    path = adapter / CALIBRATION_FILE
    if not path.is_file():
        return None
    values = read_versioned_json(path, "the calibration of an adapter")
    try:
        return AdapterCalibration(
            Calibration.from_json(values["calibration"]),
            float(values["train_share"]),
            ValidatedRange.from_json(values["validated_range"]),
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}). Copy the adapter's folder again, or delete the file "
            "to predict without calibration"
        ) from error


def load_calibration(adapter: Path, true_share: float | None = None) -> Calibration:
    """Return the calibration that is stored with an adapter; the identity where there is none.

    Args:
        adapter: Its folder.
        true_share: Share of True (0 to 1) expected among the rows to score, where it differs from
            that of the training rows.

    Raises:
        ValueError: The share is out of range, or needs a calibration that is missing; or the file
            is damaged or of another format version.
    """
    stored = read_calibration(adapter)
    if stored is None:
        if true_share is not None:
            raise ValueError(
                f"predict.true_share={true_share} needs {adapter / CALIBRATION_FILE}, which a "
                "phase with validation rows leaves. Predict with such an adapter, or leave "
                "predict.true_share out"
            )
        return Calibration()
    if true_share is None:
        return stored.calibration
    calibration, prior = stored.calibration, (stored.train_share, true_share)
    return Calibration(calibration.temperature, calibration.threshold, prior)
