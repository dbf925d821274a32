"""`ablate`: a grid of settings, every cell a run with every seed, compared in a table."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mv_lightning.commands.options import (
    PROGRAM,
    add_options,
    build,
    command_parser,
    parse_options,
    split_args,
)
from mv_lightning.experiments.grid import Grid, read_grid
from mv_lightning.experiments.report import cost_table, results_table, write_results
from mv_lightning.experiments.results import CellResult, compare, read_results
from mv_lightning.experiments.runner import run_all
from mv_lightning.experiments.runs import Run, plan_runs
from mv_lightning.model.adapters import LoraSettings
from mv_lightning.model.base import BaseSettings, load_config
from mv_lightning.model.optim import OptimSettings
from mv_lightning.planning.memory import ModelDims, training_memory
from mv_lightning.reporting.blocks import Section, Table


@dataclass(frozen=True)
class AblateOptions:
    """Options of the command."""

    folder: Path | None = None
    """Folder of the experiment. Default: the grid file's name in checkpoints/experiments."""
    dry_run: bool = False
    """Print the cells, their cost and what is done of them, and stop."""


def run(args: list[str]) -> None:
    """Run the cells that are not done, then print and write their comparison.

    Exits with status 1 if a run failed; the other cells do not depend on it.

    Args:
        args: The command line after `ablate`.

    Raises:
        ValueError: The grid or an option is wrong.
    """
    parser = command_parser(
        "ablate",
        "Run a grid of settings and compare its cells; the same command continues where it "
        "stopped.",
        "All other options are those of fit and apply to all cells, such as --config "
        "configs/a100.yaml",
    )
    parser.add_argument("grid", metavar="GRID.yaml", help="the grid, see configs/experiments")
    add_options(parser, "ablate", AblateOptions)
    file, rest = args[:1], args[1:]
    own_args, fit_args = split_args(parser, rest)
    values = parse_options(parser, [*file, *own_args])
    options = build(AblateOptions, values.ablate)
    grid = read_grid(Path(values.grid))
    folder = options.folder or Path("checkpoints/experiments", Path(values.grid).stem).absolute()
    runs = plan_runs(grid, fit_args, folder)
    if options.dry_run:
        show_plan(grid, runs)
        return
    run_experiment(grid, runs, folder, ["ablate", *args])


def run_experiment(
    grid: Grid,
    runs: Sequence[Run],
    folder: Path,
    command: Sequence[str],
    describe: Callable[[Sequence[CellResult]], Sequence[Section]] | None = None,
) -> None:
    """Run what is not done, then print and write the comparison of the cells.

    Args:
        grid: The experiment.
        runs: Its runs.
        folder: Where it is stored.
        command: The command that continues it, for the message after a stop.
        describe: Returns further sections of the report.

    Raises:
        SystemExit: A run failed, or a signal stopped one.
    """
    try:
        failures = run_all(runs, folder)
    except (SystemExit, KeyboardInterrupt):
        print(f"to continue: {PROGRAM} {shlex.join(command)}", file=sys.stderr)
        raise
    cells = compare(grid, read_results(runs))
    more = describe(cells) if describe else []
    write_results(folder, grid, cells, failures, more)
    if cells:
        print(f"\n{results_table(grid, cells).plain()}\n\n{cost_table(cells).plain()}")
    tables = [block for section in more for block in section.blocks if isinstance(block, Table)]
    for table in tables:
        print(f"\n{table.plain()}")
    print(f"\nin {folder / 'report.html'}; also report.md, results.csv and results.json")
    if failures:
        lines = [f"  {name}: {message}" for name, message in failures.items()]
        print("failed runs, which the same command tries again:", *lines, sep="\n", file=sys.stderr)
        sys.exit(1)


def show_plan(grid: Grid, runs: Sequence[Run]) -> None:
    """Print each run with its cost and what is done of it.

    Args:
        grid: The experiment.
        runs: Its runs.
    """
    reasons: set[str] = set()

    @cache
    def dims(base: BaseSettings) -> ModelDims | None:
        try:
            return ModelDims.of(load_config(base))
        except ValueError as error:
            reasons.add(str(error))
            return None

    rows = []
    for run in runs:
        model = run.settings["model"]
        base = BaseSettings(**model["base"])
        cost = _cost(run, base, dims(base))
        rows.append((run.name, run.state, f"{run.steps:,}", f"{run.plan.train_rows:,}", *cost))
    head = ("run", "state", "steps", "training rows", "trained parameters", "GB on a GPU")
    print(f"{grid.title}: {len(grid.cells)} cells, {len(runs)} runs\n")
    print(Table(head, rows).plain())
    left = sum(run.work for run in runs if not run.is_done)
    done = sum(run.is_done for run in runs)
    print(
        f"\n{done} of {len(runs)} runs are done; the others take {left:,} forward passes of a row "
        "(a row that is trained on counts as three)."
    )
    for reason in sorted(reasons):
        print(f"without estimate: {reason}")


def _cost(run: Run, base: BaseSettings, dims: ModelDims | None) -> tuple[str, str]:
    """Trained parameters and the peak memory on a GPU, as `estimate` computes them."""
    if dims is None:
        return "-", "-"
    model = run.settings["model"]
    lora, optim = LoraSettings(**model["lora"]), OptimSettings(**model["optim"])
    rows = run.settings["data"]["batch_size"]
    tokens = rows * run.settings["data"]["max_length"]
    head = model["head"]
    items = training_memory(dims, base, lora, optim, tokens, rows, head=head)
    return f"{dims.trained(lora.r, head):,}", f"{sum(item.bytes for item in items) / 1e9:.1f}"
