"""Nested subsets of the rows, and the curve through their results."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.data.splits import SplitPlan, plan_splits
from mv_lightning.experiments.grid import Grid, GridCell
from mv_lightning.experiments.learning_curve import (
    check_runs,
    curve_sections,
    fit_curves,
    learning_curve_grid,
)
from mv_lightning.experiments.results import CellResult, compare
from mv_lightning.experiments.runs import plan_runs
from mv_lightning.versioning import read_versioned_json
from tests.experiments.made_results import experiment_options, make_result

SIZES = [8, 16, 40, 90]


@given(
    val_rows=st.integers(1, 20).map(lambda half: 2 * half),
    grouped=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_smaller_subsets_are_parts_of_larger_ones(val_rows: int, grouped: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels_N, questions_N = rng.random(900) < 0.4, rng.integers(0, 500, 900)
    drawn = []
    for cell in learning_curve_grid(SIZES, val_rows, [seed]).cells:
        given_options = {name.rpartition(".")[2]: value for name, value in cell.options.items()}
        plan = SplitPlan(
            phases=1, test_rows=10, seed=seed, group_by_question=grouped, **given_options
        )
        drawn.append(plan_splits(labels_N, questions_N, plan))
    assert [len(splits.train[0]) for splits in drawn] == SIZES
    for smaller, larger in pairwise(drawn):
        assert set(smaller.train[0]) < set(larger.train[0])
        assert set(smaller.val[0]) == set(larger.val[0]) and len(smaller.val[0]) == val_rows
        assert smaller.test.tolist() == larger.test.tolist()


def test_runs_that_do_not_see_all_rows_are_refused(tmp_path: Path) -> None:
    args = experiment_options(tmp_path, "--data.splits.rows", "--data.splits.val_fraction")
    grid = learning_curve_grid([8, 16], 4, [1])
    check_runs(plan_runs(grid, args, tmp_path))
    message = "got 3 steps of 4 rows. Leave out trainer.max_steps"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_runs(plan_runs(grid, [*args, "--trainer.max_steps=3"], tmp_path))


def made_cells(sizes: list[int], seeds: list[int]) -> list[CellResult]:
    """Runs whose errors fall with the rows as 3 n^-0.5, on 400 rows of 200 questions."""
    rng = np.random.default_rng(0)
    labels_N = np.arange(400) % 2 == 0
    cells = [GridCell(f"{size} rows", {}) for size in sizes]
    results = []
    for cell, size in zip(cells, sizes, strict=True):
        for seed in seeds:
            wrong_N = rng.random(400) < 3 * size**-0.5
            odds_N = np.where(labels_N != wrong_N, 1.0, -1.0) * rng.uniform(0.5, 2, 400)
            results.append(make_result(cell, seed, odds_N.tolist(), labels_N.tolist(), rows=size))
    return compare(Grid("made", cells, cells[-1], seeds=seeds), results)


def test_the_curve_and_its_goals() -> None:
    accuracy = fit_curves(made_cells([100, 200, 400, 800], [1, 2, 3]))[0]
    assert accuracy.metric == "accuracy" and accuracy.rows_P.tolist() == [100, 200, 400, 800]
    (at_400,) = accuracy.at(np.array([400]))
    assert at_400.low < 0.85 < at_400.high and abs(at_400.value - 0.85) < 0.02
    near, far, never = (accuracy.goal(goal) for goal in (0.85, 0.925, 1.0))
    # 3 n^-0.5 = 0.15 at 400 rows, and 0.075 at 1,600.
    assert near.rows.low < 400 < near.rows.high and not near.is_extrapolated
    assert far.rows.low < 1_600 < far.rows.high and far.is_extrapolated
    assert never.rows.high == np.inf and never.text().endswith("to never)")
    exponent = accuracy.exponent()
    assert exponent.low < 0.5 < exponent.high


def test_the_bootstrap_covers_the_choice_of_runs() -> None:
    """Runs that differ more have a wider interval on the same questions."""
    labels = [True, False] * 20
    right = np.where(labels, 1.0, -1.0)
    cells = [GridCell(f"{size} rows", {}) for size in (10, 20, 40)]
    widths = []
    for flipped in (0, 16):
        results = []
        for cell, size in zip(cells, (10, 20, 40), strict=True):
            for seed, n_wrong in ((1, 16 - flipped), (2, 16 + flipped)):
                odds = np.r_[-right[:n_wrong], right[n_wrong:]].tolist()
                results.append(make_result(cell, seed, odds, labels, rows=size))
        made = compare(Grid("made", cells, cells[0], seeds=[1, 2]), results)
        (at,) = fit_curves(made)[0].at(np.array([20]))
        widths.append(at.high - at.low)
    assert widths[1] > 1.2 * widths[0]


def test_files_and_sections(tmp_path: Path) -> None:
    (section,) = curve_sections(tmp_path, made_cells([100, 200, 400], [1, 2]), [0.8, 0.95])
    tables = [block for block in section.blocks if hasattr(block, "rows")]
    assert [row[0] for row in tables[0].rows] == ["accuracy", "AUROC", "log loss"]
    assert [row[2] for row in tables[1].rows] == ["within the rows measured", "extrapolated"]
    stored = read_versioned_json(tmp_path / "learning_curve.json", "curve")
    assert [goal["extrapolated"] for goal in stored["goals"]] == [False, True]
    assert [point["rows"] for point in stored["auroc"]["points"]] == [100, 200, 400]
    for name in ("accuracy", "auroc", "log_loss"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_two_sizes_have_no_curve(tmp_path: Path) -> None:
    (section,) = curve_sections(tmp_path, made_cells([100, 200], [1]), [0.9])
    assert "3 different numbers of rows or more, got 2" in str(section.blocks)
    assert not (tmp_path / "learning_curve.json").exists()
