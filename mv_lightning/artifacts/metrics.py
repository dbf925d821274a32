"""From the log-odds of evaluated rows to what is known about the verifier: metrics, calibration and pictures."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mv_lightning.artifacts.layout import CALIBRATION_FILE, PhaseFolder
from mv_lightning.atomic import atomic_file, write_json
from mv_lightning.metrics.calibration import Calibration, fit_calibration
from mv_lightning.metrics.scores import Scores, score, score_slices, upper_quantile
from mv_lightning.schema import EncodedRows, EvalOutputs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class EvalReport:
    """All metrics of an evaluation, over all rows and by slices."""

    evaluation: EvalOutputs
    overall: Scores
    slices: Mapping[str, Mapping[str, Scores]]
    """`tokens` (upper bounds of fifths), `cut` (cut or whole), and `kind` of error where the source tells it."""

    @property
    def loss(self) -> float:
        """Mean loss of the rows."""
        return float(self.evaluation.losses_N.mean())

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `write_json`."""
        by_slice = {
            name: {part: s.to_json() for part, s in parts.items()}
            for name, parts in self.slices.items()
        }
        return {"loss": self.loss, **self.overall.to_json(), "by": by_slice}

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The evaluation drawn, once for folder and TensorBoard; nothing without matplotlib (the extra `plots`)."""
        if importlib.util.find_spec("matplotlib") is None:
            return {}
        from mv_lightning.metrics import plots

        labels_N, odds_N = self.evaluation.labels_N, self.evaluation.log_odds_N
        figures = {
            "reliability": plots.reliability(labels_N, odds_N),
            "confusion": plots.confusion_matrix(self.overall),
            "log_odds": plots.log_odds_histogram(labels_N, odds_N),
            "length": plots.accuracy_by(self.slices["tokens"], "tokens of the row, at most"),
        }
        if "kind" in self.slices:
            figures["kind"] = plots.accuracy_by(self.slices["kind"], "kind of error")
        if 0 < self.overall.true_rows < self.overall.rows:
            figures["roc"] = plots.roc_curve(labels_N, odds_N)
        return figures

    def table(self) -> str:
        """Return the overall metrics with their 95 % intervals as text."""
        independent = f"; intervals over {self.overall.units:,} {self.overall.resampled}"
        lines = [
            f"{self.overall.rows:,} rows, {self.overall.true_rows:,} of them True; loss {self.loss:.4f}{independent}"
        ]
        for name, value in self.overall.values.items():
            low, high = self.overall.intervals[name]
            lines.append(f"  {name.replace('_', ' '):18} {value:7.4f}   {low:.4f} to {high:.4f}")
        cells = ", ".join(
            f"{name.replace('_', ' ')} {count:,}" for name, count in self.overall.confusion.items()
        )
        return "\n".join(
            [*lines, f"  {cells}", *([self.overall.alarm] if self.overall.alarm else [])]
        )


def evaluate(
    evaluation: EvalOutputs, encoded: EncodedRows, kinds_N: np.ndarray | None
) -> EvalReport:
    """Compute all metrics of evaluated rows.

    Args:
        evaluation: Of rows of `encoded`, in any order.
        encoded: N rows as they were asked.
        kinds_N: str [N], the kind of error of each row of `encoded`, for sources that tell.
    """
    index_of = {row: index for index, row in enumerate(encoded.rows_N.tolist())}
    order_N = np.array([index_of[row] for row in evaluation.rows_N.tolist()], dtype=np.int64)
    values = {
        "tokens": upper_quantile(encoded.lengths_N[order_N] + len(encoded.prefix_ids)),
        "cut": np.where(encoded.truncated_N[order_N] > 0, "cut", "whole"),
    }
    if kinds_N is not None:
        values["kind"] = kinds_N[order_N]
    labels_N, odds_N, question_ids_N = (
        evaluation.labels_N,
        evaluation.log_odds_N,
        evaluation.question_ids_N,
    )
    return EvalReport(
        evaluation,
        overall=score(labels_N, odds_N, question_ids_N=question_ids_N),
        slices={
            name: score_slices(values_N, labels_N, odds_N, question_ids_N=question_ids_N)
            for name, values_N in values.items()
        },
    )


def save_report(folder: PhaseFolder, stage: str, found: EvalReport) -> None:
    """Leave metrics, every row's log-odds and the figures in a phase's folder.

    Args:
        folder: The phase's folder; other stages' entries of its `metrics.json` stay.
        stage: `val` or `test`.
        found: What to keep.
    """
    path = folder.metrics
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, {**kept, stage: found.to_json()})
    with (
        atomic_file(folder.evaluated_rows(stage)) as tmp_path,
        tmp_path.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["row", "is_correct", "log_odds"])
        rows = found.evaluation
        table.writerows(
            zip(rows.rows_N.tolist(), rows.labels_N.tolist(), rows.log_odds_N.tolist(), strict=True)
        )
    for name, figure in found.figures.items():
        from mv_lightning.metrics.plots import save_png

        save_png(figure, folder.plots / f"{stage}_{name}.png")


def save_calibration(adapter: Path, evaluation: EvalOutputs, train_share: float) -> None:
    """Fit temperature and threshold on validation rows, and leave them with the adapter that judged these.

    Args:
        adapter: Its folder. Nothing is left where all rows have one label.
        evaluation: Of the validation rows.
        train_share: Share of True (0 to 1) among the rows trained on: what a prior shift starts from.
    """
    if len(np.unique(evaluation.labels_N)) == 2:
        fitted = fit_calibration(
            evaluation.labels_N, evaluation.log_odds_N, evaluation.question_ids_N
        )
        kept = {
            "calibration": fitted.to_json(),
            "rows": len(evaluation.rows_N),
            "train_share": train_share,
        }
        write_json(adapter / CALIBRATION_FILE, kept)


def load_calibration(adapter: Path, true_share: float | None = None) -> Calibration:
    """Return the calibration that an adapter was left with; the identity where it has none.

    Args:
        adapter: Its folder.
        true_share: Share of True (0 to 1) expected among the rows to score, where it differs from that trained on.

    Raises:
        ValueError: The share is out of range, or the training share is not known; or the file is damaged.
    """
    path = adapter / CALIBRATION_FILE
    if not path.is_file():
        if true_share is not None:
            raise ValueError(
                f"run.true_share={true_share} needs {path}, which a phase with validation rows leaves; predict with "
                "such an adapter, or leave run.true_share out"
            )
        return Calibration()
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        calibration, train_share = (
            Calibration.from_json(kept["calibration"]),
            float(kept["train_share"]),
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}); copy the adapter's folder again, or delete the file to predict without it"
        ) from error
    if true_share is None:
        return calibration
    return Calibration(calibration.temperature, calibration.threshold, (train_share, true_share))
