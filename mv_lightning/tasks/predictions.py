"""Prediction files, read back and set beside the labels of their rows."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from mv_lightning.data.sources import Source, load_source


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
                    f"{path}: line {number} has no ID and log_odds that are numbers ({reason!r}); predict again"
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
