"""The results of an experiment, read from the folders of its runs, and compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mv_lightning.artifacts.curves import logged_curve
from mv_lightning.artifacts.evaluations import EvaluatedRows, read_evaluated
from mv_lightning.artifacts.phase_results import PhaseResults, load_rows, read_phase
from mv_lightning.experiments.grid import Grid, GridCell
from mv_lightning.experiments.runs import Run
from mv_lightning.metrics.comparison import (
    COMPARED,
    EvaluatedRun,
    Interval,
    mean_over_seeds,
    paired_difference,
    resampled_metrics,
)


@dataclass(frozen=True)
class RunResult:
    """What a finished run left."""

    run: Run
    rows: EvaluatedRows
    evaluated: EvaluatedRun
    """The same rows with their questions."""
    values: Mapping[str, float]
    """The metrics `COMPARED`."""
    minutes: float
    peak_gb: float
    trained: int
    """Trained parameters."""
    first_loss: float
    """Of the first validation; nan without validations."""
    last_loss: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file; nan becomes null."""
        values = {
            **self.values,
            "minutes": self.minutes,
            "peak_gb": self.peak_gb,
            "trained_parameters": self.trained,
            "first_evaluation_loss": self.first_loss,
            "last_evaluation_loss": self.last_loss,
        }
        plain = {name: None if math.isnan(value) else value for name, value in values.items()}
        return {"seed": self.run.seed, "folder": str(self.run.phase.path), **plain}


@dataclass(frozen=True)
class CellResult:
    """The finished runs of a cell, and how they compare with those of the reference."""

    cell: GridCell
    runs: Sequence[RunResult]
    """At least one, in the order of the seeds."""
    means: Mapping[str, Interval]
    """Over the seeds, for each metric of `COMPARED`."""
    differences: Mapping[str, Interval]
    """From the reference, over the seeds that both have; empty for the reference itself, and where
    the evaluated rows are not the same."""

    def mean(self, name: str) -> float:
        """Return the mean of a field of `RunResult` over the seeds.

        Args:
            name: Of the field.
        """
        return float(np.mean([getattr(run, name) for run in self.runs]))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {
            "label": self.cell.label,
            "options": dict(self.cell.options),
            "means": {name: interval.to_json() for name, interval in self.means.items()},
            "differences": {name: diff.to_json() for name, diff in self.differences.items()},
            "runs": [run.to_json() for run in self.runs],
        }


def read_results(runs: Iterable[Run]) -> list[RunResult]:
    """Read the results of the runs that are done.

    Args:
        runs: Of an experiment.

    Raises:
        ValueError: A file is damaged, or a source cannot be read or has other rows now.
    """
    question_ids: dict[str, np.ndarray] = {}
    results = []
    for run in runs:
        if not run.is_done:
            continue
        phase = read_phase(run.phase.path)
        fingerprint = phase.manifest["fingerprint"]
        if fingerprint not in question_ids:
            question_ids[fingerprint] = load_rows(phase).question_ids_N
        results.append(_result(run, phase, question_ids[fingerprint]))
    return results


def compare(grid: Grid, results: Sequence[RunResult]) -> list[CellResult]:
    """Compare the cells of an experiment.

    Args:
        grid: Its cells, and which of them is the reference.
        results: Of its runs; some may be missing.

    Returns:
        The cells with at least one result, in the order of the grid.
    """
    if not results:
        return []
    resampled = resampled_metrics([result.evaluated for result in results])
    places = {
        (result.run.cell.label, result.run.seed): place for place, result in enumerate(results)
    }
    compared = []
    for cell in grid.cells:
        own = [places[cell.label, seed] for seed in grid.seeds if (cell.label, seed) in places]
        if not own:
            continue
        own_results = [results[place] for place in own]
        means = {}
        for name in COMPARED:
            means[name] = mean_over_seeds([result.values[name] for result in own_results])
        pairs = []
        for place in own:
            reference = places.get((grid.reference.label, results[place].run.seed))
            if reference is not None and reference != place:
                pairs.append((place, reference))
        differences = _differences(results, pairs, resampled)
        compared.append(CellResult(cell, own_results, means, differences))
    return compared


def _differences(
    results: Sequence[RunResult],
    pairs: Sequence[tuple[int, int]],
    resampled: Mapping[str, np.ndarray],
) -> dict[str, Interval]:
    """The differences of pairs of a run and its reference; empty if their rows differ."""
    if not pairs or not all(_same_rows(results[a].rows, results[b].rows) for a, b in pairs):
        return {}
    own, reference = map(list, zip(*pairs, strict=True))
    return {
        name: paired_difference(
            [results[place].values[name] for place in own],
            [results[place].values[name] for place in reference],
            resampled[name][:, own],
            resampled[name][:, reference],
        )
        for name in COMPARED
    }


def _same_rows(one: EvaluatedRows, other: EvaluatedRows) -> bool:
    return (
        list(one.ids) == list(other.ids)
        and np.array_equal(one.rows_N, other.rows_N)
        and np.array_equal(one.labels_N, other.labels_N)
    )


def _result(run: Run, phase: PhaseResults, question_ids_N: np.ndarray) -> RunResult:
    rows = read_evaluated(run.phase.evaluated_rows(run.stage))
    evaluated = EvaluatedRun(rows.labels_N, rows.log_odds_N, question_ids_N[rows.rows_N])
    losses = logged_curve(phase.folder, phase.settings, "val/loss")
    return RunResult(
        run=run,
        rows=rows,
        evaluated=evaluated,
        values=evaluated.values(),
        minutes=phase.summary["minutes"],
        peak_gb=phase.summary["peak_memory_gb"],
        trained=_trained_parameters(phase),
        first_loss=losses[min(losses)] if losses else math.nan,
        last_loss=losses[max(losses)] if losses else math.nan,
    )


def _trained_parameters(phase: PhaseResults) -> int:
    """Count the weights of the adapter; only the headers of its files are read."""
    from safetensors import safe_open

    count = 0
    for file in phase.folder.adapter.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118
                count += math.prod(weights.get_slice(name).get_shape())
    return count
