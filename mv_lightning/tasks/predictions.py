"""Prediction files, read back and set beside the labels of their rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from mv_lightning.data.sources import Source, load_source
from mv_lightning.metrics.calibration import Calibration

_LABELS = {"True": True, "False": False}


def read_log_odds(path: Path) -> np.ndarray:
    """Read a `probabilities.csv`.

    Args:
        path: The file; columns ID and log_odds, in any order of the rows.

    Returns:
        float64 [N], the log-odds of the rows 0 to N - 1.

    Raises:
        ValueError: No such file, or not one log-odds for each row of a source.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; needed is a probabilities.csv that predict wrote")
    log_odds: dict[int, float] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                key, value = int(row["ID"]), float(row["log_odds"])
            except (LookupError, TypeError, ValueError) as reason:
                raise ValueError(
                    f"{path}: line {number} has no ID and log_odds that are numbers ({reason!r}); needed is a "
                    "probabilities.csv that predict wrote"
                ) from reason
            if key in log_odds:
                raise ValueError(f"{path}: ID {key} stands there twice (line {number}); keep one line per row")
            log_odds[key] = value
    if not log_odds or log_odds.keys() != set(range(len(log_odds))):
        missing = sorted(set(range(max(log_odds, default=0) + 1)) - log_odds.keys())
        raise ValueError(
            f"{path}: {len(log_odds)} rows, without the IDs {missing[:5]}; needed are all IDs from 0 on, as predict "
            "writes them"
        )
    return np.array([log_odds[row] for row in range(len(log_odds))])


def read_evaluated(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the `val.csv` or `test.csv` of a phase.

    Args:
        path: The file.

    Returns:
        int64 [N] source rows in ascending order, bool [N] labels, and float64 [N] log-odds, not calibrated.

    Raises:
        ValueError: No such file, or one without rows or with other columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [
                (int(line["row"]), _LABELS[line["is_correct"]], float(line["log_odds"]))
                for line in csv.DictReader(file)
            ]
        rows, labels, log_odds = zip(*sorted(lines), strict=True)
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not hold evaluated rows ({error!r}); needed is the val.csv or test.csv of a phase, with the "
            "columns row, is_correct and log_odds: fit leaves the one, the command test the other"
        ) from error
    return np.array(rows), np.array(labels), np.array(log_odds)


def applied_calibration(path: Path) -> Calibration:
    """Return what stands between the model's own log-odds and those of a prediction file.

    Args:
        path: A `probabilities.csv`; `prediction.json` lies beside it.

    Raises:
        ValueError: There is no such summary, or the file's numbers are not the model's odds on rows like those it was
            trained on: they were generated, or shifted to another share of True.
    """
    from mv_lightning.training.predictions import PREDICTION_SUMMARY

    summary = path.with_name(PREDICTION_SUMMARY)
    try:
        said = json.loads(summary.read_text(encoding="utf-8"))
        calibration = Calibration.from_json(said["calibration"])
    except (OSError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{summary} does not tell how {path.name} was calibrated ({error!r}); keep the files that predict wrote "
            "together, or predict again"
        ) from error
    other = {
        "model.predict_mode=generate": said.get("predict_mode") == "generate",
        "run.true_share": calibration.prior is not None,
    }
    for option, given in other.items():
        if given:
            raise ValueError(
                f"{path} was predicted with {option}, so its numbers cannot be set beside log-odds of validation "
                "rows; predict again without it"
            )
    return calibration


def load_predicted(source: str, rows: int) -> tuple[Source, np.ndarray]:
    """Load the labelled rows that were predicted.

    Args:
        source: As for `--data.predict_source`; of several splits, `test`.
        rows: How many rows were predicted.

    Returns:
        The source and its labels, bool [rows].

    Raises:
        ValueError: The source cannot be read, has no labels or another number of rows.
    """
    loaded = load_source(source, split="test")
    assert loaded.labels_N is not None
    if len(loaded.labels_N) != rows:
        raise ValueError(
            f"{source} has {len(loaded.labels_N):,} rows, the predictions are of {rows:,}; name the source that they "
            "were made from"
        )
    return loaded, loaded.labels_N
