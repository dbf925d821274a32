"""`verify-resume`: show on this machine that an interrupted phase ends as an uninterrupted one
does.

The phase is trained for a few steps twice: once without interruption, and once killed (SIGKILL) at
random moments and started again with the same command. Everything that could differ is then
compared bit for bit. On a GPU, kernels that add in another order each time can make even two
uninterrupted runs differ; this command separates that from a resume that loses something.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.commands.options import (
    add_options,
    build,
    command_parser,
    parse_options,
    split_args,
)
from mv_lightning.experiments.resume_check import compare_phases, train, train_with_kills


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
        "for bit.",
        "All other options are those of fit, such as --config configs/phase1.yaml --config "
        "configs/local.yaml",
    )
    add_options(parser, "verify_resume", VerifyResumeOptions)
    own_args, fit_args = split_args(parser, args)
    options = build(VerifyResumeOptions, parse_options(parser, own_args).verify_resume)
    settings = parse(["fit", *fit_args])
    phase = settings["data"]["phase"]
    fit_args += ["--trainer.max_steps", str(options.steps), "--run.save_every", "1"]
    if settings["model"]["init_from"] is not None:
        # `previous` would name a phase in the folder of each of the two runs.
        fit_args += ["--model.init_from", settings["model"]["init_from"]]
    with tempfile.TemporaryDirectory() as tmp_path:
        folder = options.folder or Path(tmp_path)
        differences = _differences(fit_args, options, folder, phase, settings["seed_everything"])
    for part, values in differences.items():
        result = f"DIFFERENT: {', '.join(values[:3])}" if values else "equal"
        print(f"  {part:18} {result}")
    if any(differences.values()):
        print("result: the resumed run differs from the uninterrupted one")
        sys.exit(1)
    print("result: the resumed run equals the uninterrupted one, bit for bit")


def _differences(
    fit_args: Sequence[str], options: VerifyResumeOptions, folder: Path, phase: int, seed: int
) -> dict[str, list[str]]:
    straight, killed = (PhaseFolder(folder / name, phase) for name in ("straight", "killed"))
    print(f"uninterrupted: {options.steps} steps", flush=True)
    train(fit_args, straight)
    print(f"killed and resumed: {options.steps} steps, {options.kills} kills", flush=True)
    train_with_kills(fit_args, killed, options.steps, options.kills, seed)
    return compare_phases(straight, killed)
