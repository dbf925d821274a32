"""The contest report's comparisons at small scale, on short rows of real labelled solutions.

    python -m benchmarks.comparisons --tables    # the grid of its Tables 1 and 2
    python -m benchmarks.comparisons --tune 40   # a search of 40 minutes, killed twice

The bundled base, one CPU thread; the files of both are in `benchmarks/small_scale`. Each is a
command as a user types it (`ablate`, `tune`) and continues where it stopped. A grid that was
stopped is stored as far as it is done. Only metrics are stored, below `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, record
from benchmarks.small_scale.results import grid_result, search_result
from benchmarks.small_scale.rows import MAX_TOKENS, write_short_rows
from mv_lightning.artifacts.layout import StudyFolder
from mv_lightning.atomic import read_json, write_json
from mv_lightning.commands.options import PROGRAM
from mv_lightning.experiments.child_run import run_child
from mv_lightning.experiments.grid import read_grid
from mv_lightning.experiments.option_files import option_args
from mv_lightning.experiments.results import compare, read_results
from mv_lightning.experiments.runs import plan_runs
from mv_lightning.model.bundled import BUNDLED

ROOT = Path(__file__).parents[1]
FILES = ROOT / "benchmarks" / "small_scale"
GRID, SPACE = FILES / "tables.yaml", FILES / "tune.yaml"
STORED = RESULTS / "comparisons"
KILLS = 2


def run_tables(folder: Path, source: Path) -> None:
    """Run the grid, or what is left of it, and store the results of the runs that are done.

    Args:
        folder: Of all comparisons.
        source: Labelled rows.

    Raises:
        SystemExit: `ablate` failed or was stopped.
    """
    rows, options = _rows(folder, source)
    grid_folder = folder / "tables"
    status = run_child(["ablate", str(GRID), "--folder", str(grid_folder), *options])
    grid = read_grid(GRID)
    cells = compare(grid, read_results(plan_runs(grid, options, grid_folder)))
    record("tables", STORED, source=rows, seeds=list(grid.seeds), **grid_result(grid, cells))
    if status:
        sys.exit(status if status > 0 else 128 - status)


def run_search(folder: Path, source: Path, minutes: float) -> None:
    """Search, killed at equal distances of time and continued, and store the result.

    Args:
        folder: Of all comparisons.
        source: Labelled rows.
        minutes: Budget of the search.

    Raises:
        SystemExit: `tune` failed or was stopped.
    """
    rows, options = _rows(folder, source)
    study, kills_file = StudyFolder(folder / "tune"), folder / "kills.json"
    command = ["tune", str(SPACE), "--folder", str(study.path), "--minutes", f"{minutes:g}"]
    kills: list[dict[str, int]] = read_json(kills_file) if kills_file.is_file() else []
    while len(kills) < KILLS:
        run_until_killed([*command, *options], 60 * minutes / (KILLS + 1))
        kills.append(_trials(study))
        write_json(kills_file, kills)
    status = run_child([*command, *options])
    if status:
        sys.exit(status if status > 0 else 128 - status)
    record("tune", STORED, source=rows, minutes=minutes, **search_result(study, kills))


def run_until_killed(args: Sequence[str], seconds: float) -> None:
    """Run a command of this program, and kill it and all its children after some time.

    Args:
        args: The command and its options.
        seconds: Until the kill.

    Raises:
        ValueError: It ended before.
    """
    with subprocess.Popen([sys.executable, "-m", "mv_lightning", *args]) as process:
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill(process_tree(process.pid))
            return
    raise ValueError(
        f"expected `{PROGRAM} {args[0]}` to run for {seconds:.0f} s, but it ended with status "
        f"{status}. Raise the budget"
    )


def kill(pids: Sequence[int]) -> None:
    """Kill processes.

    Args:
        pids: Each parent before its children, so that it sees none of them die.
    """
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def process_tree(pid: int) -> list[int]:
    """Return a process and its descendants, each parent before its children.

    Args:
        pid: Of the process.
    """
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    pids = [pid]
    for child in children.split():
        pids += process_tree(int(child))
    return pids


def _trials(study: StudyFolder) -> dict[str, int]:
    """How many trials were started, and how many of them are over."""
    import optuna

    (name,) = optuna.get_all_study_names(f"sqlite:///{study.storage}")
    trials = optuna.load_study(study_name=name, storage=f"sqlite:///{study.storage}").trials
    waiting = optuna.trial.TrialState.WAITING
    return {
        "trials": sum(trial.state != waiting for trial in trials),
        "over": sum(trial.state.is_finished() for trial in trials),
    }


def _rows(folder: Path, source: Path) -> tuple[dict[str, Any], list[str]]:
    """Write the short rows; return what they are, and the options that name them."""
    path = folder / "rows.jsonl"
    rows = write_short_rows(source, path, BUNDLED, MAX_TOKENS)
    return asdict(rows), option_args({"data.source": str(path)})


def main() -> None:
    """Do what the options ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--tables", action="store_true")
    action.add_argument("--tune", type=float, metavar="MINUTES")
    parser.add_argument(
        "--source",
        type=Path,
        default=ROOT.parent / "shared" / "data" / "gsm8k_solutions" / "labelled.jsonl",
        help="labelled rows, a JSON Lines file",
    )
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "checkpoints" / "comparisons", help="of the runs"
    )
    options = parser.parse_args()
    if options.tables:
        run_tables(options.folder, options.source)
    else:
        run_search(options.folder, options.source, options.tune)


if __name__ == "__main__":
    main()
