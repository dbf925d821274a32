"""The calibration of an adapter: fitted on validation rows, stored beside its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mv_lightning.artifacts.layout import CALIBRATION_FILE
from mv_lightning.metrics.calibration import Calibration, fit_calibration
from mv_lightning.schema import EvalOutputs
from mv_lightning.versioning import read_versioned_json, write_versioned_json


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
        "rows": len(outputs.rows_N),
        "train_share": train_share,
    }
    write_versioned_json(adapter / CALIBRATION_FILE, values)


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
    path = adapter / CALIBRATION_FILE
    if not path.is_file():
        if true_share is not None:
            raise ValueError(
                f"run.true_share={true_share} needs {path}, which a phase with validation rows "
                "leaves. Predict with such an adapter, or leave run.true_share out"
            )
        return Calibration()
    values = read_versioned_json(path, "the calibration of an adapter")
    try:
        calibration = Calibration.from_json(values["calibration"])
        train_share = float(values["train_share"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}). Copy the adapter's folder again, or delete the file "
            "to predict without calibration"
        ) from error
    if true_share is None:
        return calibration
    return Calibration(calibration.temperature, calibration.threshold, (train_share, true_share))
