"""The files of an evaluation in a phase's folder: metrics, every row's log-odds, and figures."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.artifacts.layout import PARTIAL_PREFIX, PhaseFolder
from mv_lightning.atomic import atomic_file
from mv_lightning.metrics.evaluation import EvalReport
from mv_lightning.schema import LABEL_COLUMN
from mv_lightning.versioning import read_versioned_json, write_versioned_json

_COLUMNS = ("row", LABEL_COLUMN, "log_odds")
_LABELS = {"True": True, "False": False}


def save_report(folder: PhaseFolder, stage: str, report: EvalReport) -> Path:
    """Write metrics, every row's log-odds and the figures to a phase's folder.

    A report that covers only some rows of the split (`limit_val_batches`) gets names of its own,
    `partial_val` for `val`: it never replaces that of the whole split.

    Args:
        folder: The phase's folder; the entries of other stages in its `metrics.json` stay.
        stage: `val` or `test`.
        report: What to write.

    Returns:
        The file of the rows' log-odds.
    """
    if not report.is_complete:
        stage = PARTIAL_PREFIX + stage
    write_versioned_json(folder.metrics, {**read_metrics(folder), stage: report.to_json()})
    with (
        atomic_file(folder.evaluated_rows(stage)) as tmp_path,
        tmp_path.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_COLUMNS)
        outputs = report.outputs
        columns = (outputs.rows_N, outputs.labels_N, outputs.log_odds_N)
        table.writerows(zip(*(column_N.tolist() for column_N in columns), strict=True))
    if report.figures:
        from mv_lightning.metrics.plots import save_png

        for name, figure in report.figures.items():
            save_png(figure, folder.plots / f"{stage}_{name}.png")
    return folder.evaluated_rows(stage)


def read_metrics(folder: PhaseFolder) -> Mapping[str, Any]:
    """Return the metrics of a phase by stage; empty for a phase that was never evaluated.

    The stages are `val` and `test`, and the same with `PARTIAL_PREFIX`.

    Args:
        folder: The phase's folder.

    Raises:
        ValueError: `metrics.json` is damaged or of another format version.
    """
    if not folder.metrics.is_file():
        return {}
    return read_versioned_json(folder.metrics, "the metrics of a phase")


def read_evaluated(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the `val.csv` or `test.csv` of a phase.

    Args:
        path: The file.

    Returns:
        int64 [N] source rows in ascending order, bool [N] labels, and float64 [N] log-odds, not
        calibrated.

    Raises:
        ValueError: No such file, or one without rows or with other columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [
                (int(line["row"]), _LABELS[line[LABEL_COLUMN]], float(line["log_odds"]))
                for line in csv.DictReader(file)
            ]
        rows, labels, log_odds = zip(*sorted(lines), strict=True)
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not hold evaluated rows ({error!r}). Expected the val.csv or test.csv of "
            f"a phase, with the columns {', '.join(_COLUMNS)}: fit and validate write the one, "
            "test the other"
        ) from error
    return np.array(rows), np.array(labels), np.array(log_odds)
