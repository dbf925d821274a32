"""`learning-curve`: how accuracy grows with distinct training rows, and the rows a goal needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mv_lightning.commands.ablate import run_experiment, show_plan
from mv_lightning.commands.options import (
    add_options,
    build,
    command_parser,
    parse_options,
    split_args,
)
from mv_lightning.experiments.learning_curve import check_runs, curve_sections, learning_curve_grid
from mv_lightning.experiments.runs import plan_runs
from mv_lightning.schema import DEFAULT_SEED


@dataclass(frozen=True)
class LearningCurveOptions:
    """Options of the command."""

    rows: list[int]
    """Numbers of distinct training rows, such as 500 1000 2000 4000."""
    val_rows: int = 200
    """Validation rows of each run, the same in all runs of a seed."""
    seeds: list[int] = field(default_factory=lambda: [DEFAULT_SEED])
    """Each draws other rows, another order and other adapters."""
    goals: list[float] = field(default_factory=list)
    """Accuracies (0 to 1) whose number of training rows is computed from the curve."""
    folder: Path = Path("checkpoints/experiments/learning_curve")
    """Folder of the experiment."""
    dry_run: bool = False
    """Print the runs, their cost and what is done of them, and stop."""

    def __post_init__(self) -> None:
        if min(self.rows) < 1 or self.val_rows < 1 or min(self.seeds) < 0:
            raise ValueError(
                "expected --rows and --val-rows of at least 1 and --seeds of at least 0, got "
                f"{self.rows}, {self.val_rows} and {self.seeds}"
            )
        odd = [number for number in (*self.rows, self.val_rows) if number % 2]
        if odd:
            raise ValueError(
                f"expected even numbers for --rows and --val-rows, half True and half False, got "
                f"{odd[0]}"
            )
        if not all(0 < goal < 1 for goal in self.goals):
            raise ValueError(f"expected --goals between 0 and 1, got {self.goals}")


def run(args: list[str]) -> None:
    """Run what is not done, fit the curves, print and write them.

    Args:
        args: The command line after `learning-curve`.

    Raises:
        ValueError: An option is wrong.
    """
    parser = command_parser(
        "learning-curve",
        "Train on nested subsets of the rows and fit a power law; the same command continues where "
        "it stopped.",
        "All other options are those of fit, such as --config configs/a100.yaml",
    )
    add_options(parser, "learning_curve", LearningCurveOptions)
    own_args, fit_args = split_args(parser, args)
    options = build(LearningCurveOptions, parse_options(parser, own_args).learning_curve)
    grid = learning_curve_grid(options.rows, options.val_rows, options.seeds)
    runs = plan_runs(grid, fit_args, options.folder)
    check_runs(runs)
    if options.dry_run:
        show_plan(grid, runs)
        return
    describe = partial(curve_sections, options.folder, accuracies=options.goals)
    run_experiment(grid, runs, options.folder, ["learning-curve", *args], describe)
