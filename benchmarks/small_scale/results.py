"""What is stored of the grid and of the search."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mv_lightning.artifacts.evaluations import read_evaluated, read_metrics
from mv_lightning.artifacts.layout import PhaseFolder, StudyFolder
from mv_lightning.artifacts.phase_results import load_rows, read_phase
from mv_lightning.atomic import read_json
from mv_lightning.experiments.grid import Grid
from mv_lightning.experiments.results import CellResult
from mv_lightning.metrics.comparison import (
    COMPARED,
    EvaluatedRun,
    Interval,
    paired_difference,
    resampled_metrics,
)

_COUNTS = ("steps", "rows", "tokens")


@dataclass(frozen=True)
class Spread:
    """How much a metric varies over the seeds, as standard deviations of a single run."""

    within_cells: float
    """Of runs that differ in their seed only: in training and test rows, their order, and the
    adapters that training starts from."""
    of_differences: float
    """Of the difference between a run and the reference run of the same seed, on the same rows."""

    @property
    def detectable(self) -> float:
        """From which difference on two single runs with different seeds differ beyond chance (95
        %)."""
        return 1.96 * math.sqrt(2) * self.within_cells


def grid_result(grid: Grid, cells: Sequence[CellResult]) -> dict[str, Any]:
    """Return the results of a grid as plain values for a JSON file.

    Args:
        grid: The grid.
        cells: The results of its cells.
    """
    return {
        "reference": grid.reference.label,
        "cells": [_cell_result(cell) for cell in cells],
        "spread": _spreads(grid, cells),
    }


def _cell_result(cell: CellResult) -> dict[str, Any]:
    values = cell.to_json()
    for result, run in zip(cell.runs, values["runs"], strict=True):
        del run["folder"]
        del run["first_evaluation_loss"], run["last_evaluation_loss"]
        phase = read_phase(result.run.phase.path)
        run |= {name: phase.summary[name] for name in _COUNTS}
        drawn = phase.manifest["splits"]["train_1"]
        run["true_share"] = drawn["true"] / drawn["rows"]
        run["test_rows"] = len(result.rows.rows_N)
        run["test_questions"] = len(np.unique(result.evaluated.question_ids_N))
    return values


def _spreads(grid: Grid, cells: Sequence[CellResult]) -> dict[str, Any]:
    by_seed = {cell.cell.label: {run.run.seed: run.values for run in cell.runs} for cell in cells}
    spreads = {}
    for name in COMPARED:
        values = {
            label: {seed: metrics[name] for seed, metrics in runs.items()}
            for label, runs in by_seed.items()
        }
        if spread := seed_spread(values, grid.reference.label):
            spreads[name] = {
                "within_cells": spread.within_cells,
                "of_differences": spread.of_differences,
                "detectable": spread.detectable,
            }
    return spreads


def seed_spread(values: Mapping[str, Mapping[int, float]], reference: str) -> Spread | None:
    """Pool the variances over seeds of all cells.

    Args:
        values: The metric of each run, by cell and seed.
        reference: The cell that the others are compared with.

    Returns:
        The spread; None where no cell but the reference has two seeds, or a metric is undefined.
    """
    within, of_differences = [], []
    for label, runs in values.items():
        if len(runs) < 2:
            continue
        within.append(np.var(list(runs.values()), ddof=1))
        if label != reference and runs.keys() <= values[reference].keys():
            differences = [value - values[reference][seed] for seed, value in runs.items()]
            of_differences.append(np.var(differences, ddof=1))
    if not of_differences or not np.isfinite(within).all():
        return None
    return Spread(math.sqrt(float(np.mean(within))), math.sqrt(float(np.mean(of_differences))))


def accuracy_error(accuracy: float, rows: int) -> float:
    """Return the standard error of an accuracy on independent rows.

    Args:
        accuracy: From 0 to 1.
        rows: That it was measured on.
    """
    return math.sqrt(accuracy * (1 - accuracy) / rows)


def search_result(folder: StudyFolder, kills: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the results of a search as plain values for a JSON file.

    Args:
        folder: Of the search, which is over.
        kills: What was stored of each kill.
    """
    with folder.table.open(encoding="utf-8") as file:
        trials = list(csv.DictReader(file))
    summary = read_json(folder.summary)
    settings = {}
    for name in ("report", "best"):
        chosen = summary[name]
        phase = folder.trial(chosen["trial"]).phase(1)
        stages = {}
        for stage in ("val", "test"):
            metrics = read_metrics(phase)[stage]
            stages[stage] = {
                "rows": metrics["rows"],
                **{metric: metrics["metrics"][metric] for metric in COMPARED},
            }
        settings[name] = {"trial": chosen["trial"], "params": chosen["params"], **stages}
    phases = [folder.trial(settings[name]["trial"]).phase(1) for name in ("best", "report")]
    differences = {stage: _difference(phases, stage) for stage in ("val", "test")}
    return {
        "trials": trials,
        "trial_minutes": sum(float(trial["minutes"]) for trial in trials),
        "kills": list(kills),
        "lost_trials": lost_trials(trials, kills),
        "settings": settings,
        "differences": differences,
    }


def lost_trials(
    trials: Sequence[Mapping[str, str]], kills: Sequence[Mapping[str, Any]]
) -> list[int]:
    """Return the numbers of the trials that were there at a kill and are not over at the end.

    Args:
        trials: Those at the end.
        kills: Each with `trials`, the number of those that had been started.
    """
    started = max((kill["trials"] for kill in kills), default=0)
    over = {int(trial["trial"]) for trial in trials if trial["state"] not in ("running", "waiting")}
    return sorted(set(range(started)) - over)


def _difference(phases: Sequence[PhaseFolder], stage: str) -> dict[str, Any]:
    """By how much the metrics of the first phase exceed those of the second, on the same rows."""
    runs = []
    for phase in phases:
        rows = read_evaluated(phase.evaluated_rows(stage))
        question_ids_N = load_rows(read_phase(phase.path)).question_ids_N[rows.rows_N]
        runs.append(EvaluatedRun(rows.labels_N, rows.log_odds_N, question_ids_N))
    resampled = resampled_metrics(runs)
    values = [run.values() for run in runs]
    differences: dict[str, Interval] = {}
    for name in COMPARED:
        differences[name] = paired_difference(
            [values[0][name]], [values[1][name]], resampled[name][:, :1], resampled[name][:, 1:]
        )
    return {name: difference.to_json() for name, difference in differences.items()}
