"""`phases`: fit every phase in order, predict, and show what came of it.

Each step is the command that a user would type, printed before it runs, in a process of its own: memory starts clean
and a crash leaves what is finished. `fit` itself skips a finished phase and goes on with an interrupted one, so the
same call again carries on wherever the last one stopped.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mv_lightning.experiments.child_run import run_child
from mv_lightning.reporting.results_table import show_table


def run_phases(words: list[str], configuration: Callable[[list[str]], dict[str, Any]]) -> None:
    """Run the phase files in order, then the prediction file, then print the table.

    Args:
        words: The command line after `phases`.
        configuration: Reads a command line as the command itself would, without running it.

    Raises:
        ValueError: There are no phase files, or a configuration is wrong (said by the command that read it).
    """
    parser = argparse.ArgumentParser(
        prog="python -m mv_lightning phases",
        description="Fit all phases in order (finished ones are skipped, an interrupted one goes on), then predict.",
        epilog="Every other option, such as --data.source FILE, is handed to each command.",
    )
    parser.add_argument(
        "--config",
        "-c",
        action="append",
        default=[],
        metavar="FILE",
        help="overlay, laid over each",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("configs"),
        help="where phaseN.yaml and predict.yaml are",
    )
    parser.add_argument("--skip-predict", action="store_true", help="end after the last phase")
    options, handed_on = parser.parse_known_args(words)

    files = sorted(
        options.folder.glob("phase*.yaml"), key=lambda file: (len(file.name), file.name)
    )  # 10 after 9
    if not files:
        raise ValueError(
            f"no phase*.yaml in {options.folder}; run from the repository or give --folder"
        )
    commands = [("fit", file) for file in files]
    if not options.skip_predict:
        commands.append(("predict", options.folder / "predict.yaml"))
    overlays = [word for overlay in options.config for word in ("--config", overlay)]
    lines = [[verb, "--config", str(file), *overlays, *handed_on] for verb, file in commands]
    # Every configuration is read before the first hour is spent; the last one also tells where the run lies.
    settings = [configuration(line) for line in lines]
    for line in lines:
        print("\n$ python -m mv_lightning " + shlex.join(line), flush=True)
        status = run_child(line)
        if status:
            sys.exit(status)
    show_table(Path(settings[-1]["run"]["dir"]))
