"""`verify-resume`: show on this machine that an interrupted phase ends as an uninterrupted one
does.

The phase is trained for a few steps twice: once without interruption, and once killed (SIGKILL) at
random moments and started again with the same command. Everything that could differ is then
compared bit for bit. On a GPU deterministic kernels are asked for, as the default ones add in
another order each time. Should the runs differ all the same, a second uninterrupted one shows
whether that is due to the resume.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.commands.options import (
    add_options,
    build,
    command_parser,
    parse_options,
    split_args,
)
from mv_lightning.experiments.resume_check import compare_phases, train, train_with_kills

RESUME_DIFFERS = (
    "result: the resumed run differs from the uninterrupted one, and two uninterrupted runs are "
    "equal"
)
NOT_REPRODUCIBLE = (
    "result: undecided. Two uninterrupted runs differ on this machine, so that a difference does "
    "not show whether the resume lost anything"
)


@dataclass(frozen=True)
class VerifyResumeOptions:
    """Options of the command."""

    steps: int = 12
    """Optimizer steps to train."""
    kills: int = 3
    """How many times the second run is killed."""
    folder: Path | None = None
    """A new folder in which both runs are kept; default: a temporary one, which is deleted."""

    def __post_init__(self) -> None:
        if not 1 <= self.kills < self.steps:
            raise ValueError(
                "expected at least one kill and more steps than kills, got "
                f"--steps {self.steps} --kills {self.kills}"
            )


def run(args: list[str]) -> None:
    """Train without and with kills, compare, print the result; exits with status 1 if anything
    differs.

    Args:
        args: The command line after `verify-resume`.

    Raises:
        ValueError: The options are wrong, or a run failed.
    """
    from mv_lightning.training.cli import parse

    parser = command_parser(
        "verify-resume",
        "Train a phase twice, once killed and resumed several times, and compare the results bit "
        "for bit. On a GPU, with trainer.deterministic=true unless it is set.",
        "All other options are those of fit, such as --config configs/phase1.yaml --config "
        "configs/local.yaml",
    )
    add_options(parser, "verify_resume", VerifyResumeOptions)
    own_args, fit_args = split_args(parser, args)
    options = build(VerifyResumeOptions, parse_options(parser, own_args).verify_resume)
    settings = parse(["fit", *fit_args])
    phase = settings["data"]["phase"]
    fit_args += _fit_options(settings, options.steps)
    with tempfile.TemporaryDirectory() as tmp_path:
        folder = options.folder or Path(tmp_path)
        straight, killed, repeated = (
            PhaseFolder(folder / name, phase) for name in ("straight", "killed", "repeated")
        )
        print(f"uninterrupted: {options.steps} steps", flush=True)
        train(fit_args, straight)
        print(f"killed and resumed: {options.steps} steps, {options.kills} kills", flush=True)
        train_with_kills(
            fit_args, killed, options.steps, options.kills, settings["seed_everything"]
        )
        if _print_differences(compare_phases(straight, killed)):
            print(f"uninterrupted once more: {options.steps} steps", flush=True)
            train(fit_args, repeated)
            reproducible = not _print_differences(compare_phases(straight, repeated))
            print(RESUME_DIFFERS if reproducible else NOT_REPRODUCIBLE)
            sys.exit(1)
    print("result: the resumed run equals the uninterrupted one, bit for bit")


def _fit_options(settings: Mapping[str, Any], steps: int) -> list[str]:
    """The options of `fit` that are added to those given."""
    import torch

    trainer, init_from = settings["trainer"], settings["model"]["init_from"]
    options = ["--trainer.max_steps", str(steps), "--run.save_every", "1"]
    on_gpu = trainer["accelerator"] != "cpu" and torch.cuda.is_available()
    if on_gpu and trainer["deterministic"] is None:
        options += ["--trainer.deterministic", "true"]
    if init_from is not None:
        # `previous` would name a phase in the folder of each of the runs.
        options += ["--model.init_from", init_from]
    return options


def _print_differences(differences: Mapping[str, Sequence[str]]) -> bool:
    """Print what differs in each part, and return whether anything does."""
    for part, values in differences.items():
        result = f"DIFFERENT: {', '.join(values[:3])}" if values else "equal"
        print(f"  {part:18} {result}")
    return any(differences.values())
