"""The command line: from the name of a command to the module that runs it.

A user's mistake ends with one message and exit status 2; set MV_LIGHTNING_TRACEBACK=1 to see where
it was raised. A signal ends a command with status 128 + its number. A closed standard output, as
behind `| head`, counts as SIGPIPE, which Python does not deliver.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from dataclasses import dataclass

from mv_lightning.signals import on_sigterm


@dataclass(frozen=True)
class Command:
    """A command that a user types."""

    help: str
    """What it does, in one line."""
    module: str
    """Has the function `run(args)`; imported only when the command runs."""


_PHASE_MODULE = "mv_lightning.training.cli"
COMMANDS = {
    "phases": Command(
        "fit all phases in order, predict, and print a table of the results",
        "mv_lightning.commands.phases",
    ),
    "fit": Command("train one phase; an interrupted phase is resumed", _PHASE_MODULE),
    "validate": Command("compute the metrics of a phase's validation rows", _PHASE_MODULE),
    "test": Command("the same for the held-out test rows", _PHASE_MODULE),
    "predict": Command("write submission.csv and probabilities.csv", _PHASE_MODULE),
    "analyze": Command(
        "lengths, balance, leaks and trivial baselines of a source",
        "mv_lightning.commands.analyze",
    ),
    "ensemble": Command(
        "combine several predictions, and measure the gain", "mv_lightning.commands.ensemble"
    ),
    "average": Command(
        "average the weights of adapters, such as those of a run's phases",
        "mv_lightning.commands.average",
    ),
    "best-of-n": Command(
        "solve rate when the verifier picks among several solutions",
        "mv_lightning.commands.best_of_n",
    ),
    "export": Command(
        "a verifier as an adapter, a merged model or a reward model, for other tools",
        "mv_lightning.commands.export",
    ),
    "serve": Command(
        "answer HTTP requests with a verifier's calibrated probabilities",
        "mv_lightning.commands.serve",
    ),
    "report": Command(
        "a page about a run: settings, curves, metrics, worst mistakes",
        "mv_lightning.commands.report",
    ),
    "estimate": Command(
        "memory that a phase needs, term by term, and the GPUs that have it",
        "mv_lightning.commands.estimate",
    ),
    "plan": Command(
        "memory, time and cost of all phases on given GPUs, and the fastest settings that fit",
        "mv_lightning.commands.plan",
    ),
    "ablate": Command(
        "a grid of settings, every cell a run, compared in a table",
        "mv_lightning.commands.ablate",
    ),
    "learning-curve": Command(
        "accuracy against distinct training rows, and the rows that a goal needs",
        "mv_lightning.commands.learning_curve",
    ),
    "tune": Command(
        "search for settings with a lower validation loss than the report's",
        "mv_lightning.commands.tune",
    ),
    "verify-resume": Command(
        "train a few steps twice, once killed and resumed, and compare bit for bit",
        "mv_lightning.commands.verify_resume",
    ),
}
"""All commands; those of one phase are LightningCLI's."""
SHORT_FORMS = {"--fresh": ("--run.fresh", "true")}


def main(argv: list[str] | None = None) -> None:
    """Run one command; exits with status 2 and one message on a user's mistake.

    A signal ends it with status 128 + its number; `fit` finishes its step and saves a checkpoint
    first.

    Args:
        argv: The arguments after the program's name; None for those of this process.
    """
    try:
        try:
            _run(_expand(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _run(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return
    try:
        if args[0] not in COMMANDS:
            raise ValueError(f"expected one of {', '.join(COMMANDS)}, got {args[0]!r}")
        module = COMMANDS[args[0]].module
        run = importlib.import_module(module).run
        if module == _PHASE_MODULE:
            # Lightning ignores SIGTERM in a prediction, but calls the handler that it finds.
            with on_sigterm(lambda: sys.exit(128 + signal.SIGTERM)):
                run(args)
        else:
            run(args[1:])
    except (KeyboardInterrupt, SystemExit) as stop:
        if not _is_interrupt(stop):
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if os.environ.get("MV_LIGHTNING_TRACEBACK") or not _is_users(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def usage() -> str:
    """Return the help of the program: every command in a line."""
    lines = [f"  {name:14} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m mv_lightning COMMAND [--config FILE ...] [--OPTION VALUE ...]",
            "",
            "Train a model that says whether a math answer is correct.",
            "",
            *lines,
            "",
            "  python -m mv_lightning COMMAND --help explains every option of a command.",
        ]
    )


def _expand(argv: list[str]) -> list[str]:
    args: list[str] = []
    for arg in argv:
        args += SHORT_FORMS.get(arg, (arg,))
    return args


def _is_interrupt(stop: BaseException) -> bool:
    """Ctrl-C, which Lightning turns into an exit with status 1."""
    if isinstance(stop, SystemExit) and stop.code == 1:
        return isinstance(stop.__context__, KeyboardInterrupt)
    return isinstance(stop, KeyboardInterrupt)


def _is_users(error: Exception) -> bool:
    """Our own checks raise ValueError, Lightning's MisconfigurationException, and a full disk
    OSError."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    users = isinstance(error, (ValueError, OSError, MisconfigurationException))
    return users and not isinstance(error, BrokenPipeError)
