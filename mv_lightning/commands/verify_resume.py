"""`verify-resume`: show on this machine that an interrupted phase ends as an uninterrupted one does.

The phase is trained for a few steps twice: once without interruption, and once killed (SIGKILL) at random moments
and started again with the same command. Everything that could differ is then compared bit for bit. On a GPU,
kernels that add in another order each time can make even two uninterrupted runs differ; this command separates
that from a resume that loses something.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.experiments.resume_check import compare_phases, train, train_with_kills


def run_verify_resume(
    words: list[str], configuration: Callable[[list[str]], dict[str, Any]]
) -> None:
    """Train straight and with kills, compare, print the verdict; exits with status 1 if anything differs.

    Args:
        words: The command line after `verify-resume`.
        configuration: Reads a command line as the command itself would, without running it.

    Raises:
        ValueError: The options are wrong (said by the command that reads them).
    """
    parser = argparse.ArgumentParser(
        prog="python -m mv_lightning verify-resume",
        description="Train a phase twice, once killed and resumed over and over, and compare bit for bit.",
        epilog="Every other option is handed to fit: --config configs/phase1.yaml --config configs/local.yaml, ...",
    )
    parser.add_argument(
        "--steps", type=int, default=12, help="optimizer steps to train (default: %(default)s)"
    )
    parser.add_argument(
        "--kills", type=int, default=3, help="how often to kill (default: %(default)s)"
    )
    parser.add_argument(
        "--folder", type=Path, help="keep both runs in this new folder (default: a temporary one)"
    )
    options, handed_on = parser.parse_known_args(words)
    if not 1 <= options.kills < options.steps:
        raise ValueError(
            f"--steps {options.steps} --kills {options.kills}: needed are at least one kill and more steps than kills"
        )
    settings = configuration(["fit", *handed_on])
    phase = settings["data"]["phase"]
    command = [*handed_on, "--trainer.max_steps", str(options.steps), "--run.save_every", "1"]
    if settings["model"]["init_from"] == "previous":
        before = PhaseFolder(Path(settings["run"]["dir"]), phase - 1).adapter
        command += ["--model.init_from", str(before)]
    with tempfile.TemporaryDirectory() as scratch:
        root = options.folder or Path(scratch)
        straight, killed = (PhaseFolder(root / name, phase) for name in ("straight", "killed"))
        print(f"straight: {options.steps} steps", flush=True)
        train(command, straight)
        print(f"killed: {options.steps} steps, {options.kills} kills", flush=True)
        train_with_kills(command, killed, options.steps, options.kills, settings["seed_everything"])
        differences = compare_phases(straight, killed)
    for name, values in differences.items():
        result = f"DIFFERENT: {', '.join(values[:3])}" if values else "equal"
        print(f"  {name:18} {result}")
    if any(differences.values()):
        print("result: the resumed run differs from the uninterrupted one")
        sys.exit(1)
    print("result: the resumed run equals the uninterrupted one, bit for bit")
