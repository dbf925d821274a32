"""`phases`: fit every phase in order, predict, and show the results.

Each step is the command that a user would type. It is printed and then runs in a process of its
own: its memory starts empty, and a crash leaves what is finished. `fit` skips a finished phase and
resumes an interrupted one, so the same command continues wherever the last one stopped.
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.commands.options import (
    PROGRAM,
    add_options,
    build,
    command_parser,
    parse_options,
    split_args,
)
from mv_lightning.experiments.child_run import run_child
from mv_lightning.reporting.results_table import show_table

INTERRUPTED = 128 + signal.SIGINT
"""Exit status after Ctrl-C."""


@dataclass(frozen=True)
class PhasesOptions:
    """Options of the command."""

    folder: Path = Path("configs")
    """Folder of phase1.yaml, phase2.yaml, ... and predict.yaml."""
    skip_untrained: bool = False
    """Do not validate the base without an adapter, which shows what the training gained."""
    skip_predict: bool = False
    """End after the last phase."""


def run(args: list[str]) -> None:
    """Run the phase files in order, then the prediction file, then print the table.

    Args:
        args: The command line after `phases`.

    Raises:
        ValueError: There are no phase files, or a configuration is wrong.
    """
    from mv_lightning.training.cli import parse

    parser = command_parser(
        "phases",
        "Fit all phases in order (finished ones are skipped, an interrupted one resumes), then "
        "predict.",
        "All other options, such as --data.source FILE, are those of fit and predict: each command "
        "gets them, after its own configuration file.",
    )
    add_options(parser, "phases", PhasesOptions)
    own_args, command_args = split_args(parser, args)
    options = build(PhasesOptions, parse_options(parser, own_args).phases)
    commands = []
    for name, file in _configurations(options):
        commands.append([name, "--config", str(file), *command_args])
    if not options.skip_untrained:
        # The command line comes last, so that it overrides the files.
        commands.insert(0, ["validate", *commands[0][1:], "--model.init_from", "none"])
    # Every configuration is checked before the first hour is spent.
    settings = [parse(command) for command in commands]
    for command, values in zip(commands, settings, strict=True):
        if command[0] == "validate" and _is_validated(values):
            continue
        print(f"\n$ {PROGRAM} {shlex.join(command)}", flush=True)
        try:
            status = run_child(command)
        except KeyboardInterrupt:
            status = INTERRUPTED
        if status == INTERRUPTED:
            _stop(status, "interrupted.", args)
        if status:
            sys.exit(status)
        phase = PhaseFolder(Path(values["run"]["dir"]), values["data"]["phase"])
        if command[0] == "fit" and not phase.summary.is_file():
            _stop(1, f"phase {phase.phase} is not finished, so nothing after it was started.", args)
    show_table(Path(settings[-1]["run"]["dir"]))


def _is_validated(settings: Mapping[str, Any]) -> bool:
    """Return whether there is nothing to validate, or the base was validated already."""
    phase = PhaseFolder(Path(settings["run"]["dir"]), settings["data"]["phase"])
    return phase.metrics.is_file() or not settings["data"]["splits"]["val_fraction"]


def _stop(status: int, reason: str, args: Sequence[str]) -> NoReturn:
    command = shlex.join(["phases", *_without_fresh(args)])
    print(f"{reason} To continue: {PROGRAM} {command}", file=sys.stderr)
    sys.exit(status)


def _without_fresh(args: Sequence[str]) -> list[str]:
    """Return the arguments without `--run.fresh`, which would train finished phases again."""
    kept: list[str] = []
    remaining = iter(args)
    for arg in remaining:
        if arg == "--run.fresh":
            next(remaining, None)  # its value
        elif not arg.startswith("--run.fresh="):
            kept.append(arg)
    return kept


def phase_files(folder: Path) -> list[Path]:
    """Return phase1.yaml, phase2.yaml, ... of a folder, in order.

    Args:
        folder: Of configuration files.

    Raises:
        ValueError: There are none.
    """
    files = sorted(folder.glob("phase*.yaml"), key=lambda file: (len(file.name), file.name))
    if not files:
        raise ValueError(
            f"expected phase1.yaml, phase2.yaml, ... in {folder}, got none. Run from the "
            "repository, or name their folder with --folder"
        )
    return files


def _configurations(options: PhasesOptions) -> list[tuple[str, Path]]:
    """Return the commands and the configuration file of each."""
    configurations = [("fit", file) for file in phase_files(options.folder)]
    if not options.skip_predict:
        configurations.append(("predict", options.folder / "predict.yaml"))
    return configurations
