"""`report`: everything about a run on one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mv_lightning.artifacts.phase_results import read_run
from mv_lightning.commands.options import (
    add_options,
    build,
    command_parser,
    local_path,
    parse_options,
)
from mv_lightning.reporting.run_page import write_run_page
from mv_lightning.training.settings import RunSettings


@dataclass(frozen=True)
class RunOptions:
    """Which run."""

    dir: Path = Path(RunSettings.dir)
    """The run's folder, in place of RUN_DIR."""


def run(args: list[str]) -> None:
    """Write the report page of a run.

    Args:
        args: The command line after `report`.

    Raises:
        ValueError: No phase of the run is finished, or a file of one is missing or damaged.
    """
    parser = command_parser(
        "report",
        "Write one page about a run: results, curves, metrics with intervals, most confident "
        "mistakes, settings.",
    )
    parser.add_argument("run_dir", nargs="?", metavar="RUN_DIR", help="The run's folder")
    add_options(parser, "run", RunOptions, short={})
    values = parse_options(parser, args)
    run = local_path(values.run_dir) if values.run_dir else build(RunOptions, values.run).dir
    phases = read_run(run)
    page = write_run_page(run, phases)
    print(f"{', '.join(phase.name for phase in phases)}: written to {page}")
