"""Prediction files: written, checked against a sample submission, read back and joined with labels."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.atomic import atomic_file
from mv_lightning.data.sources import Source, load_source
from mv_lightning.formatting import shorten
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.schema import LABEL_COLUMN
from mv_lightning.versioning import read_versioned_json

HEADER = ("ID", LABEL_COLUMN)
"""Of the submission."""


def check_sample_submission(path: Path, rows: int) -> None:
    """Compare a contest's sample submission with what will be written: the header, and the IDs 0 to `rows` - 1.

    The order of the IDs is not compared: a submission is matched by ID.

    Args:
        path: CSV in UTF-8.
        rows: Rows of the source.

    Raises:
        ValueError: The file is not readable, or its header, number of rows or IDs differ; the difference is named.
    """
    mend = "Predict the rows that the sample is for (data.predict_source), or correct run.sample_submission"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *sample = list(csv.reader(file, strict=True)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(
            f"run.sample_submission {path} cannot be read as CSV: {error}. Needed is a file with the header "
            f"{','.join(HEADER)}"
        ) from error
    if tuple(header) != HEADER:
        raise ValueError(
            f"run.sample_submission {path} has the header {','.join(header)}; the submission will have "
            f"{','.join(HEADER)}. {mend}"
        )
    ids = Counter(row[0] for row in sample if row)
    wanted = [str(row) for row in range(rows)]
    differences = {
        "IDs twice in the sample": [name for name, count in ids.items() if count > 1],
        "IDs of the sample that no row has": sorted(ids.keys() - set(wanted)),
        "rows that the sample has no ID for": [name for name in wanted if name not in ids],
    }
    if any(differences.values()):
        told = "; ".join(
            f"{len(names):,} {what}: {shorten(names)}"
            for what, names in differences.items()
            if names
        )
        raise ValueError(
            f"run.sample_submission {path} has {ids.total():,} rows, the source {rows:,} (numbered from 0). "
            f"{told}. {mend}"
        )


def write_predictions(
    folder: RunFolder, log_odds: dict[int, float], rows: int, threshold: float = 0.0
) -> None:
    """Write `probabilities.csv` (ID, probability, log_odds), then `submission.csv` (ID, is_correct).

    Args:
        folder: Where to.
        log_odds: log P(True) - log P(False) by source row number.
        rows: Rows of the source; each must have a prediction.
        threshold: Log-odds above it are a verdict of True.

    Raises:
        ValueError: The rows predicted are not exactly those of the source.
    """
    if log_odds.keys() != set(range(rows)):
        missing = sorted(set(range(rows)) - log_odds.keys())
        unknown = sorted(log_odds.keys() - set(range(rows)))
        raise ValueError(
            f"{len(log_odds)} predictions for {rows} rows; the first rows without one: {missing[:5]}, the first that "
            f"the source does not have: {unknown[:5]}. Nothing was published; run predict again"
        )
    import torch

    odds = torch.tensor([log_odds[row] for row in range(rows)], dtype=torch.float64)
    with (
        atomic_file(folder.probabilities) as tmp_path,
        tmp_path.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["ID", "probability", "log_odds"])
        table.writerows(zip(range(rows), odds.sigmoid().tolist(), odds.tolist(), strict=True))
    with (
        atomic_file(folder.submission) as tmp_path,
        tmp_path.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(HEADER)
        table.writerows(enumerate((odds > threshold).tolist()))


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
                raise ValueError(
                    f"{path}: ID {key} stands there twice (line {number}); keep one line per row"
                )
            log_odds[key] = value
    if not log_odds or log_odds.keys() != set(range(len(log_odds))):
        missing = sorted(set(range(max(log_odds, default=0) + 1)) - log_odds.keys())
        raise ValueError(
            f"{path}: {len(log_odds)} rows, without the IDs {missing[:5]}; needed are all IDs from 0 on, as predict "
            "writes them"
        )
    return np.array([log_odds[row] for row in range(len(log_odds))])


def applied_calibration(path: Path) -> Calibration:
    """Return what stands between the model's own log-odds and those of a prediction file.

    Args:
        path: A `probabilities.csv`; `prediction.json` lies beside it.

    Raises:
        ValueError: There is no such summary, or the file's numbers are not the model's odds on rows like those it was
            trained on: they were generated, or shifted to another share of True.
    """
    summary = RunFolder(path.parent).prediction_summary
    try:
        values = read_versioned_json(summary, "the summary of a prediction")
        calibration = Calibration.from_json(values["calibration"])
    except (FileNotFoundError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{summary} does not state how {path.name} was calibrated ({error!r}). Keep the files "
            "that predict wrote together, or predict again"
        ) from error
    option = None
    if values.get("predict_mode") == "generate":
        option = "model.predict_mode=generate"
    elif calibration.prior is not None:
        option = "run.true_share"
    if option is not None:
        raise ValueError(
            f"{path} was predicted with {option}, so its numbers cannot be compared with the "
            "log-odds of validation rows. Predict again without it"
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
