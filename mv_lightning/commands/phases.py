"""`phases`: fit every phase in order, predict, and show the results.

Each step is the command that a user would type. It is printed and then runs in a process of its
own: its memory starts empty, and a crash leaves what is finished. `fit` skips a finished phase and
resumes an interrupted one, so the same command continues wherever the last one stopped.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mv_lightning.commands.options import (
    add_options,
    build,
    command_parser,
    local_path,
    parse_options,
    split_args,
)
from mv_lightning.experiments.child_run import run_child
from mv_lightning.reporting.results_table import show_table


@dataclass(frozen=True)
class PhasesOptions:
    """Options of the command."""

    folder: Path = Path("configs")
    """Folder of phase1.yaml, phase2.yaml, ... and predict.yaml."""
    skip_predict: bool = False
    """End after the last phase."""


def run_phases(args: list[str], configuration: Callable[[list[str]], dict[str, Any]]) -> None:
    """Run the phase files in order, then the prediction file, then print the table.

    Args:
        args: The command line after `phases`.
        configuration: Returns the checked settings of a command line without running it.

    Raises:
        ValueError: There are no phase files, or a configuration is wrong.
    """
    parser = command_parser(
        "phases",
        "Fit all phases in order (finished ones are skipped, an interrupted one resumes), then "
        "predict.",
        "All other options, such as --data.source FILE, are those of fit and predict: each command "
        "gets them, "
        "after its own configuration file.",
    )
    add_options(parser, "phases", PhasesOptions)
    own_args, command_args = split_args(parser, args)
    options = build(PhasesOptions, parse_options(parser, own_args).phases)
    commands = [
        [command, "--config", str(file), *command_args]
        for command, file in _configurations(options)
    ]
    # Every configuration is checked before the first hour is spent.
    settings = [configuration(command) for command in commands]
    for command in commands:
        print("\n$ python -m mv_lightning " + shlex.join(command), flush=True)
        status = run_child(command)
        if status:
            sys.exit(status)
    show_table(local_path(settings[-1]["run"]["dir"]))


def _configurations(options: PhasesOptions) -> list[tuple[str, Path]]:
    """Return the commands and the configuration file of each."""
    files = options.folder.glob("phase*.yaml")
    phase_files = sorted(files, key=lambda file: (len(file.name), file.name))  # 10 after 9
    if not phase_files:
        raise ValueError(
            f"expected phase1.yaml, phase2.yaml, ... in {options.folder}, got none. Run from the "
            "repository, "
            "or name their folder with --folder"
        )
    configurations = [("fit", file) for file in phase_files]
    if not options.skip_predict:
        configurations.append(("predict", options.folder / "predict.yaml"))
    return configurations
