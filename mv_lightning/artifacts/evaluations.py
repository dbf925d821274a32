"""The files of an evaluation in a phase's folder: metrics, every row's log-odds, and figures."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.artifacts.layout import PARTIAL_PREFIX, PhaseFolder
from mv_lightning.artifacts.row_ids import match_ids
from mv_lightning.atomic import atomic_file
from mv_lightning.metrics.evaluation import EvalReport
from mv_lightning.schema import LABEL_COLUMN
from mv_lightning.versioning import read_versioned_json, write_versioned_json

_COLUMNS = ("id", "row", LABEL_COLUMN, "log_odds")
_LABELS = {"True": True, "False": False}


@dataclass(frozen=True)
class EvaluatedRows:
    """The content of the `val.csv` or `test.csv` of a phase, in ascending order of the rows."""

    path: Path
    ids: Sequence[str]
    """As the source spells them."""
    rows_N: np.ndarray
    """int64 [N], source row numbers."""
    labels_N: np.ndarray
    """bool [N]."""
    log_odds_N: np.ndarray
    """float64 [N], not calibrated."""

    def log_odds_of(self, other: EvaluatedRows) -> np.ndarray:
        """Return the log-odds of the same rows in the order of another evaluation, float64 [N].

        Args:
            other: An evaluation of the same rows, such as one of another phase.

        Raises:
            ValueError: The IDs or their labels are not the same.
        """
        match = match_ids(other.ids, self.ids)
        differences = match.differences(str(other.path), str(self.path))
        if not differences and np.array_equal(self.labels_N[match.positions_N], other.labels_N):
            return self.log_odds_N[match.positions_N]
        raise ValueError(
            f"{self.path} has other rows or labels than {other.path}"
            f"{': ' if differences else ''}{differences}. Expected phases that were validated on "
            "the same rows, with the same data.source, data.splits and data.phase"
        )


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
        columns = [outputs.rows_N.tolist(), outputs.labels_N.tolist(), outputs.log_odds_N.tolist()]
        table.writerows(zip(report.ids, *columns, strict=True))
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


def read_evaluated(path: Path) -> EvaluatedRows:
    """Read the `val.csv` or `test.csv` of a phase.

    Args:
        path: The file.

    Raises:
        ValueError: No such file, or one without rows or with other columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [_parsed(line) for line in csv.DictReader(file)]
        rows, ids, labels, log_odds = zip(*sorted(lines), strict=True)
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not hold evaluated rows ({error!r}). Expected the val.csv or test.csv of "
            f"a phase, with the columns {', '.join(_COLUMNS)}: fit and validate write the one, "
            "test the other"
        ) from error
    return EvaluatedRows(path, ids, np.array(rows), np.array(labels), np.array(log_odds))


def _parsed(line: Mapping[str, str]) -> tuple[int, str, bool, float]:
    return int(line["row"]), line["id"], _LABELS[line[LABEL_COLUMN]], float(line["log_odds"])
