"""Prediction files: written, compared with a sample submission, read back and joined by ID."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.row_ids import match_ids
from mv_lightning.atomic import atomic_file
from mv_lightning.data.sources import Source, load_source
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.numerics import sigmoid
from mv_lightning.schema import LABEL_COLUMN
from mv_lightning.versioning import read_versioned_json

ID_COLUMN = "ID"
HEADER = (ID_COLUMN, LABEL_COLUMN)
"""Of a submission, unless a sample submission spells it differently."""
MISSING_VERDICT = False
"""Of a row without a score: what could not be verified is not taken as correct."""
_CHUNK = 10_000


@dataclass(frozen=True)
class SampleSubmission:
    """The header, the IDs and the order that a contest expects."""

    header: tuple[str, str]
    ids: Sequence[str]
    """As the sample spells them."""
    rows_N: np.ndarray
    """int64 [N], the source row of each ID."""


def read_sample_submission(path: Path, ids: Sequence[str]) -> SampleSubmission:
    """Read a contest's sample submission and match its IDs with those of the source.

    Args:
        path: CSV in UTF-8: a column of IDs, then `is_correct` with any values.
        ids: The IDs of the source's rows, in source order.

    Raises:
        ValueError: The file cannot be read, its header is another one, or its IDs are not exactly
            those of the source; the differences are listed.
    """
    option = f"predict.sample_submission {path}"
    hint = "Predict the rows of the sample (predict.source), or correct predict.sample_submission"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            sample_ids = [line[0] for line in lines if line]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{option} cannot be read as CSV: {error}. Expected a file with the header "
            f"{','.join(HEADER)}"
        ) from error
    if len(header) != 2 or header[1].strip().lower() != LABEL_COLUMN:
        raise ValueError(
            f"{option}: expected a header of two columns, the ID and "
            f"{LABEL_COLUMN}, got {','.join(header)}. {hint}"
        )
    match = match_ids(sample_ids, ids)
    differences = match.differences("the sample", "the source")
    if differences:
        raise ValueError(
            f"{option} has {len(sample_ids):,} rows, the source {len(ids):,}. {differences}. {hint}"
        )
    return SampleSubmission((header[0], header[1]), sample_ids, match.positions_N)


def verdicts(log_odds_N: np.ndarray, threshold: float) -> np.ndarray:
    """Return the verdicts of a submission, bool [N].

    Args:
        log_odds_N: float64 [N], nan for a row without a score: its verdict is `MISSING_VERDICT`.
        threshold: Log-odds above it are a verdict of True.
    """
    return np.where(np.isnan(log_odds_N), MISSING_VERDICT, log_odds_N > threshold)


def write_predictions(
    folder: RunFolder,
    ids: Sequence[str],
    log_odds_N: np.ndarray,
    threshold: float = 0.0,
    sample: SampleSubmission | None = None,
) -> None:
    """Write `probabilities.csv`, then `submission.csv`.

    `probabilities.csv` (ID, probability, log_odds) is in source order; a row without a score has
    neither of the two numbers. So is `submission.csv` (ID, is_correct) unless a sample submission
    is given: then its order and spelling are used.

    Args:
        folder: The run's folder.
        ids: The IDs of the source's N rows, in source order.
        log_odds_N: float64 [N], log P(True) - log P(False) of each; nan for no score.
        threshold: Log-odds above it are a verdict of True.
        sample: What the contest expects.
    """
    probabilities = (ID_COLUMN, "probability", "log_odds")
    _write_csv(folder.probabilities, probabilities, ids, sigmoid(log_odds_N), log_odds_N)
    verdicts_N = verdicts(log_odds_N, threshold)
    if sample is None:
        _write_csv(folder.submission, HEADER, ids, verdicts_N)
    else:
        _write_csv(folder.submission, sample.header, sample.ids, verdicts_N[sample.rows_N])


def _write_csv(
    path: Path, header: Sequence[str], ids: Sequence[str], *columns_N: np.ndarray
) -> None:
    """Write IDs and values, none for nan, in pieces: as an object a value takes 32 bytes."""
    with (
        atomic_file(path) as tmp_path,
        tmp_path.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        for start in range(0, len(ids), _CHUNK):
            piece = slice(start, start + _CHUNK)
            fields = [map(_field, values_N[piece].tolist()) for values_N in columns_N]
            table.writerows(zip(ids[piece], *fields, strict=True))


def _field(value: float) -> float | str:
    return "" if math.isnan(value) else value


@dataclass(frozen=True)
class Predictions:
    """The content of a `probabilities.csv`."""

    path: Path
    ids: Sequence[str]
    """In the order of the file."""
    log_odds_N: np.ndarray
    """float64 [N], nan for a row without a score."""

    @property
    def n_missing(self) -> int:
        """Rows without a score."""
        return int(np.isnan(self.log_odds_N).sum())

    def log_odds_of(self, ids: Sequence[str], owner: str) -> np.ndarray:
        """Return the log-odds in the order of `ids`, float64 [N].

        Args:
            ids: All IDs of the predictions, in any order and spelling.
            owner: What they belong to, for the message, such as another file.

        Raises:
            ValueError: The predictions are of other rows; the differences are listed.
        """
        match = match_ids(ids, self.ids)
        differences = match.differences(owner, str(self.path))
        if differences:
            raise ValueError(
                f"expected predictions of the same rows. {differences}. Name files of the same rows"
            )
        return self.log_odds_N[match.positions_N]


def read_predictions(path: Path) -> Predictions:
    """Read a `probabilities.csv`.

    Args:
        path: The file, with the columns ID and log_odds. An empty log_odds is a row without a
            score.

    Raises:
        ValueError: No such file, no rows, or a row without an ID of its own or with anything else
            than a finite number or nothing as its log-odds.
    """
    hint = "Expected a probabilities.csv that predict wrote"
    if not path.is_file():
        raise ValueError(f"{path}: no such file. {hint}")
    log_odds: dict[str, float] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                name, value = row[ID_COLUMN], _log_odds(row["log_odds"])
            except (LookupError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}: line {number} has no ID and log_odds ({error!r}). {hint}"
                ) from error
            if name in log_odds:
                raise ValueError(
                    f"{path}: ID {name} occurs twice (line {number}). Keep one line per row"
                )
            log_odds[name] = value
    if not log_odds:
        raise ValueError(f"{path} has no rows. {hint}")
    return Predictions(path, list(log_odds), np.array(list(log_odds.values())))


def _log_odds(text: str) -> float:
    if text == "":
        return math.nan
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


def applied_calibration(path: Path) -> Calibration:
    """Return the calibration that a prediction file's log-odds went through.

    Args:
        path: A `probabilities.csv`, with its `prediction.json` in the same folder.

    Raises:
        ValueError: There is no such summary, or the log-odds cannot be compared with those of
            validation rows: they were generated, or shifted to another share of True.
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
        option = "predict.mode=generate"
    elif calibration.prior is not None:
        option = "predict.true_share"
    if option is not None:
        raise ValueError(
            f"{path} was predicted with {option}, so its numbers cannot be compared with the "
            "log-odds of validation rows. Predict again without it"
        )
    return calibration


def load_predicted(
    source: str, ids: Sequence[str], id_column: str | None = None
) -> tuple[Source, np.ndarray]:
    """Load the labelled rows that were predicted.

    Args:
        source: As for `--predict.source`; of several splits, `test`.
        ids: The IDs of the predictions, in any order.
        id_column: As for `load_source`.

    Returns:
        The source, and int64 [N], the source row of each ID.

    Raises:
        ValueError: The source cannot be read, has no labels, or has other rows; the differences
            are listed.
    """
    loaded = load_source(source, split="test", id_column=id_column)
    match = match_ids(ids, loaded.ids)
    differences = match.differences("the predictions", source)
    if differences:
        raise ValueError(
            f"{source} has {len(loaded.ids):,} rows, the predictions are of {len(ids):,}. "
            f"{differences}. Name the source that they were made from"
        )
    return loaded, match.positions_N
