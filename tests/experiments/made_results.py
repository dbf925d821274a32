"""Options of tiny experiments, and results of runs that are made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mv_lightning.artifacts.evaluations import EvaluatedRows
from mv_lightning.experiments.grid import GridCell
from mv_lightning.experiments.results import RunResult
from mv_lightning.experiments.runs import Run
from mv_lightning.metrics.comparison import EvaluatedRun
from mv_lightning.testing import tiny_options


def make_result(
    cell: GridCell,
    seed: int,
    log_odds_N: Sequence[float],
    labels_N: Sequence[bool] = (True, False, True, False),
    first_row: int = 0,
    rows: int = 40,
) -> RunResult:
    """The result of a run on rows of which two and two are of one question."""
    labels, odds = np.array(labels_N), np.array(log_odds_N, dtype=float)
    rows_N = first_row + np.arange(len(labels))
    evaluated = EvaluatedRun(labels, odds, rows_N // 2)
    splits = {"rows": rows, "val_fraction": 0.0, "phases": 1, "test_rows": len(labels)}
    settings = {"run": {"dir": f"{cell.label}-{seed}"}, "data": {"phase": 1, "splits": splits}}
    return RunResult(
        run=Run(cell, seed, [], settings),
        rows=EvaluatedRows(Path("test.csv"), list(map(str, rows_N)), rows_N, labels, odds),
        evaluated=evaluated,
        values=evaluated.values(),
        minutes=1.5 * seed,
        peak_gb=2.0,
        trained=1_000,
        first_loss=0.75,
        last_loss=0.5 if seed > 1 else float("nan"),
    )


def experiment_options(base: Path, *names: str) -> list[str]:
    """The options of a tiny run without those of these names, and without its folder."""
    options = tiny_options(base, Path())
    for name in ("--run.dir", *names):
        place = options.index(name)
        del options[place : place + 2]
    return options
