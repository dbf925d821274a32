"""The runs of a grid: settings, folders, and what is done of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mv_lightning.experiments.grid import Grid, make_cells
from mv_lightning.experiments.runs import Run, plan_runs
from tests.conftest import ROOT
from tests.experiments.made_results import experiment_options

CELLS = make_cells({"model.lora.r": [4, 8]}, [])
GRID = Grid("title", CELLS, CELLS[0], seeds=[1, 2], base=[ROOT / "configs/phase1.yaml"])


def plan(tmp_path: Path, grid: Grid = GRID, *more: str) -> list[Run]:
    options = experiment_options(tmp_path / "base", "--model.lora.r")
    return plan_runs(grid, [*options, *more], tmp_path / "experiment")


def folders(runs: list[Run]) -> list[Path]:
    return [run.phase.run for run in runs]


def test_every_cell_runs_with_every_seed_in_a_folder_of_its_own(tmp_path: Path) -> None:
    runs = plan(tmp_path)
    assert [run.name for run in runs] == [
        "r=4, seed=1", "r=8, seed=1", "r=4, seed=2", "r=8, seed=2",
    ]  # fmt: skip
    assert len(set(folders(runs))) == 4
    last = runs[-1]
    assert last.phase.run.parent == tmp_path / "experiment"
    assert last.phase.run.name.startswith("r=8_seed=2-")
    settings = last.settings
    assert settings["seed_everything"] == settings["data"]["splits"]["seed"] == 2
    assert settings["model"]["lora"]["r"] == 8 and settings["data"]["batch_size"] == 2
    assert last.args[-3:] == [
        "--seed_everything=2", "--data.splits.seed=2", f"--run.dir={last.phase.run}",
    ]  # fmt: skip


def test_a_changed_grid_only_adds_runs(tmp_path: Path) -> None:
    before = folders(plan(tmp_path))
    cells = make_cells({"model.lora.r": [2, 4, 8]}, [])
    more = replace(GRID, cells=cells, reference=cells[0], seeds=[2, 1, 3], title="other")
    assert set(before) < set(folders(plan(tmp_path, more)))
    # What decides the result makes other runs, what does not leaves them.
    for option in ("--data.prompt=explanation", "--model.init_from=adapter"):
        assert not set(before) & set(folders(plan(tmp_path, GRID, option))), option
    harmless = ("--data.eval_tokens=99", "--run.eval_every=7", "--data.num_workers=1")
    assert before == folders(plan(tmp_path, GRID, *harmless))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.lora.r=5", "cells of the grid do not set"),
        ("--seed_everything", "Use seeds instead"),
        ("--run.dir=x", "Use --folder instead"),
        ("--run.fresh=true", "Use another --folder"),
        ("--trainer.devices=2", "expected an experiment to run in one process"),
        ("--data.splits.test_rows=0", "expected rows to evaluate the runs on"),
    ],
)
def test_options_that_the_experiment_sets_are_refused(
    option: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, GRID, option, "--data.splits.val_fraction=0")


def test_steps_and_work(tmp_path: Path) -> None:
    # 24 training rows, 4 a step; 8 validation rows at the steps 2, 4, 6 and the end; 16 test rows.
    run = plan(tmp_path)[0]
    assert (run.steps, run.rows_per_step, run.plan.train_rows) == (6, 4, 24)
    assert run.work == 3 * 24 + 4 * 8 + 16
    assert plan(tmp_path, GRID, "--trainer.max_steps=9", "--trainer.max_epochs=-1")[0].steps == 9


def test_the_state_of_a_run(trained_phase: Path, tmp_path: Path) -> None:
    run = plan(tmp_path)[0]
    assert run.state == "to do" and run.stage == "test"
    shutil.copytree(trained_phase, run.phase.path)
    assert run.state == "trained, not evaluated" and not run.is_done
    run.phase.evaluated_rows("test").touch()
    assert run.state == "done" and run.is_done
    run.phase.summary.unlink()
    assert run.state == "interrupted at step 4" and not run.is_done
    without_test = plan(tmp_path, GRID, "--data.splits.test_rows=0")[0]
    shutil.copytree(trained_phase, without_test.phase.path)
    assert without_test.stage == "val" and without_test.is_done
