"""Learning curves: runs on nested subsets of training rows, and the power law through them."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.artifacts.layout import ExperimentFolder
from mv_lightning.experiments.grid import Grid, GridCell
from mv_lightning.experiments.report import interval_text
from mv_lightning.experiments.results import CellResult
from mv_lightning.experiments.runs import Run
from mv_lightning.metrics.bootstrap import INTERVAL, percentile_interval
from mv_lightning.metrics.comparison import Interval, resampled_metrics
from mv_lightning.metrics.power_law import MIN_SIZES, PowerLaws, fit_power_laws
from mv_lightning.reporting.blocks import Block, Picture, Section, Table
from mv_lightning.reporting.phase_blocks import metric_title
from mv_lightning.schema import DEFAULT_SEED
from mv_lightning.versioning import write_versioned_json

CURVES = ("accuracy", "auroc", "log_loss")
"""The metrics that curves are fitted to."""
_ROWS, _SHARE = "data.splits.rows", "data.splits.val_fraction"
_DRAWN_ROWS = 400  # x values of a drawn curve
_BEYOND = 4  # times the most rows measured, up to which a curve is drawn


@dataclass(frozen=True)
class Goal:
    """The rows that an accuracy needs, by the fitted curve."""

    accuracy: float
    rows: Interval
    """Training rows; infinity where the curve never reaches the accuracy."""
    is_extrapolated: bool
    """Whether it lies beyond the most rows that were measured."""

    def text(self) -> str:
        """Return the rows and their interval."""
        low, value, high = map(_rows_text, (self.rows.low, self.rows.value, self.rows.high))
        return f"{value} ({low} to {high})"


@dataclass(frozen=True)
class FittedCurve:
    """The power law of a metric."""

    metric: str
    rows_P: np.ndarray
    """int64 [P], training rows of each size."""
    points: Sequence[Interval]
    """The metric at each of them, over the seeds."""
    law: PowerLaws
    """Through the means: one law."""
    resampled: PowerLaws
    """Through the means of each bootstrap resample of questions and runs."""

    def at(self, rows_P: np.ndarray) -> list[Interval]:
        """Return the metric by the curve, and its interval.

        Args:
            rows_P: Training rows.
        """
        values_P = self._metric(self.law.errors(rows_P)[0])
        lows_P, highs_P = np.quantile(self._metric(self.resampled.errors(rows_P)), INTERVAL, axis=0)
        columns = zip(values_P.tolist(), lows_P.tolist(), highs_P.tolist(), strict=True)
        return [Interval(*values) for values in columns]

    def goal(self, accuracy: float) -> Goal:
        """Return the rows that a value of the metric needs.

        Args:
            accuracy: The value; of a metric that grows with the rows.
        """
        rows = float(self.law.rows_for(1 - accuracy)[0])
        # No interpolation: it would be undefined between a number and infinity.
        low, high = np.quantile(
            self.resampled.rows_for(1 - accuracy), INTERVAL, method="inverted_cdf"
        )
        return Goal(
            accuracy, Interval(rows, float(low), float(high)), bool(rows > self.rows_P.max())
        )

    def exponent(self) -> Interval:
        """Return the exponent and its interval."""
        interval = percentile_interval(self.resampled.exponent_R)
        return Interval(float(self.law.exponent_R[0]), *interval)

    def limit(self) -> Interval:
        """Return what the metric tends to with ever more rows, and its interval."""
        interval = percentile_interval(self._metric(self.resampled.floor_R))
        return Interval(float(self._metric(self.law.floor_R)[0]), *interval)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        points = zip(self.rows_P.tolist(), self.points, strict=True)
        return {
            "points": [{"rows": rows, **point.to_json()} for rows, point in points],
            "floor_of_error": float(self.law.floor_R[0]),
            "scale": float(self.law.scale_R[0]),
            "exponent": self.exponent().to_json(),
            "limit": self.limit().to_json(),
        }

    def _metric(self, errors: np.ndarray) -> np.ndarray:
        return _to_error(self.metric, errors)


def learning_curve_grid(rows: Sequence[int], val_rows: int, seeds: Sequence[int]) -> Grid:
    """Return the grid of a learning curve: one cell for each number of training rows.

    All cells of a seed have the same validation and test rows, and the rows of a smaller one are
    among those of a larger one. Each trains one epoch.

    Args:
        rows: Training rows of each cell.
        val_rows: Validation rows of every cell.
        seeds: Each draws other rows.
    """
    cells = []
    for size in sorted(rows):
        share = val_rows / (size + val_rows)
        cells.append(GridCell(f"{size:,} rows", {_ROWS: size + val_rows, _SHARE: share}))
    return Grid(
        title="Learning curve",
        cells=cells,
        reference=cells[-1],
        seeds=seeds,
        options={
            "data.phase": 1,
            "data.splits.phases": 1,
            "trainer.max_epochs": 1,
            "trainer.max_steps": -1,
        },
    )


def check_runs(runs: Sequence[Run]) -> None:
    """Check that each run trains on all of its rows.

    Args:
        runs: Of the grid of a learning curve.

    Raises:
        ValueError: One does not.
    """
    for run in runs:
        if run.steps * run.rows_per_step < run.plan.train_rows:
            raise ValueError(
                f"expected {run.cell.label} to be trained on once or more, got {run.steps:,} steps "
                f"of {run.rows_per_step} rows. Leave out trainer.max_steps, or raise it"
            )


def fit_curves(cells: Sequence[CellResult], seed: int = DEFAULT_SEED) -> list[FittedCurve]:
    """Fit a power law to each metric of `CURVES`.

    The intervals come from a bootstrap over the questions, the same for all runs, and over the runs
    of each size.

    Args:
        cells: Results of the grid of a learning curve.
        seed: Seed of the resamples.

    Returns:
        The curves, accuracy first, without metrics that are undefined; none with fewer than
        `MIN_SIZES` sizes.
    """
    if len(cells) < MIN_SIZES:
        return []
    rows_P = np.array([cell.runs[0].run.plan.train_rows for cell in cells])
    runs = [run for cell in cells for run in cell.runs]
    resampled = resampled_metrics([run.evaluated for run in runs], seed=seed)
    rng = np.random.default_rng(seed)
    resamples = len(resampled[CURVES[0]])
    picks, start = [], 0
    for cell in cells:
        picks.append(start + rng.integers(0, len(cell.runs), (resamples, len(cell.runs))))
        start += len(cell.runs)
    curves = []
    for metric in CURVES:
        points = [cell.means[metric] for cell in cells]
        means_RP = np.stack(
            [np.take_along_axis(resampled[metric], pick, axis=1).mean(axis=1) for pick in picks],
            axis=1,
        )
        means_RP = means_RP[~np.isnan(means_RP).any(axis=1)]
        values_1P = np.array([[point.value for point in points]])
        if np.isnan(values_1P).any() or not len(means_RP):
            continue  # a class or a question without both labels is missing
        law = fit_power_laws(rows_P, _to_error(metric, values_1P))
        laws = fit_power_laws(rows_P, _to_error(metric, means_RP))
        curves.append(FittedCurve(metric, rows_P, points, law, laws))
    return curves


def curve_sections(
    folder: Path, cells: Sequence[CellResult], accuracies: Sequence[float]
) -> list[Section]:
    """Write `learning_curve.json` and the figures, and return what the report says about them.

    Args:
        folder: Of the experiment.
        cells: The results.
        accuracies: Goals.
    """
    curves = fit_curves(cells)
    if not curves:
        note = (
            f"A power law needs {MIN_SIZES} different numbers of rows or more, got {len(cells)}: "
            "no curve was fitted."
        )
        return [Section("Curve", [note])]
    goals = [curves[0].goal(accuracy) for accuracy in accuracies]
    experiment = ExperimentFolder(folder)
    values: dict[str, Any] = {curve.metric: curve.to_json() for curve in curves}
    values["goals"] = [
        {"accuracy": goal.accuracy, **goal.rows.to_json(), "extrapolated": goal.is_extrapolated}
        for goal in goals
    ]
    write_versioned_json(experiment.path / "learning_curve.json", values)
    blocks: list[Block] = [
        "Fitted: error = floor + scale x rows^-exponent, where the error is 1 - accuracy, "
        "1 - AUROC or the log loss. Intervals of 95 % from a bootstrap over questions and runs.",
        _curve_table(curves),
    ]
    if goals:
        blocks.append(_goal_table(goals))
    return [Section("Curve", [*blocks, *_write_figures(experiment, curves, goals)])]


def _curve_table(curves: Sequence[FittedCurve]) -> Table:
    rows = []
    for curve in curves:
        texts = [interval_text(interval) for interval in (curve.exponent(), curve.limit())]
        rows.append((metric_title(curve.metric), *texts))
    return Table(("metric", "exponent", "limit with ever more rows"), rows)


def _goal_table(goals: Sequence[Goal]) -> Table:
    rows = []
    for goal in goals:
        basis = "extrapolated" if goal.is_extrapolated else "within the rows measured"
        rows.append((f"{goal.accuracy:.3f}", goal.text(), basis))
    return Table(("accuracy", "training rows needed", ""), rows)


def _write_figures(
    experiment: ExperimentFolder, curves: Sequence[FittedCurve], goals: Sequence[Goal]
) -> list[Block]:
    """A figure for each curve; none without matplotlib (the extra `plots`)."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    from mv_lightning.metrics.plots import learning_curve, save_png

    pictures: list[Block] = []
    for curve in curves:
        most = curve.rows_P.max()
        drawn = np.geomspace(curve.rows_P.min(), _BEYOND * most, _DRAWN_ROWS)
        title = metric_title(curve.metric)
        marks = [goal.accuracy for goal in goals if curve.metric == "accuracy"]
        figure = learning_curve(curve.rows_P, curve.points, drawn, curve.at(drawn), title, marks)
        file = experiment.plot(curve.metric)
        save_png(figure, file)
        pictures.append(Picture(file, f"{title} against training rows"))
    return pictures


def _to_error(metric: str, values: np.ndarray) -> np.ndarray:
    """The error of a metric, or the metric of an error."""
    return values if metric == "log_loss" else 1 - values


def _rows_text(rows: float) -> str:
    if math.isinf(rows):
        return "never"
    return f"{rows:,.0f}" if rows < 1e9 else f"{rows:.0e}"
