"""`verify-resume`: prove on one's own machine and settings that an interrupted phase ends like an undisturbed one.

The phase is trained for a few steps twice, once straight and once killed (SIGKILL) at random moments and started again
by the same command. Then everything that could differ is compared bit for bit. On a GPU, kernels that add in another
order each time can make even two straight runs differ; this tells that apart from a resume that loses something.
"""

from __future__ import annotations

import argparse
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.artifacts.phase_results import curve

COMPARED = ("state_dict", "optimizer_states", "lr_schedulers", "random", "global_step")
"""Parts of a checkpoint: weights, optimizer, schedule, random generators, position."""
_POLL_SECONDS = 0.02


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
        _fit(command, straight)
        print(f"killed: {options.steps} steps, {options.kills} kills", flush=True)
        rng = random.Random(settings["seed_everything"])
        marks = sorted(rng.sample(range(1, options.steps), options.kills))
        for mark in marks:
            _fit(command, killed, kill_at=mark, delay=rng.random())
        _fit(command, killed)
        found = compare_phases(straight, killed)
        for name, differing in found.items():
            print(
                f"  {name:18} {'equal' if not differing else 'DIFFERENT: ' + ', '.join(differing[:3])}"
            )
        if any(found.values()):
            print("verdict: the resumed run is NOT the undisturbed one")
            sys.exit(1)
        print("verdict: the resumed run equals the undisturbed one, bit for bit")


def compare_phases(one: PhaseFolder, other: PhaseFolder) -> dict[str, list[str]]:
    """Compare what two finished phases left.

    Args:
        one: A phase that kept its last checkpoint.
        other: Another.

    Returns:
        For each part of the last checkpoint, for the logged losses and for the validation: what differs, bit for bit.
    """
    from mv_lightning.training.checkpoint import checkpoints, read_checkpoint

    left, right = (read_checkpoint(checkpoints(folder.checkpoints)[0]) for folder in (one, other))
    found = {name: list(_differences(left[name], right[name], name)) for name in COMPARED}
    for tag in ("train/loss", "val/loss"):
        found[tag] = list(_differences(logged(one, tag), logged(other, tag), "step"))
    return found


def _fit(
    command: list[str], folder: PhaseFolder, kill_at: int | None = None, delay: float = 0.0
) -> None:
    """Run the phase; with `kill_at`, kill it as soon as that step's checkpoint is there, `delay` steps later."""
    from mv_lightning.training.checkpoint import checkpoints

    words = ["fit", *command, "--run.dir", str(folder.run)]
    folder.run.mkdir(parents=True, exist_ok=True)
    log = folder.run / "log.txt"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mv_lightning", *words], stdout=file, stderr=file
        )
        seen: dict[str, float] = {}
        while kill_at is not None and process.poll() is None:
            for path in checkpoints(folder.checkpoints):
                seen.setdefault(path.stem, time.monotonic())
            if any(int(name.removeprefix("step-")) >= kill_at for name in seen):
                times = sorted(seen.values())[-2:]
                time.sleep(delay * (times[-1] - times[0]))
                process.send_signal(signal.SIGKILL)
                print(
                    f"  killed after step {max(int(name.removeprefix('step-')) for name in seen)}",
                    flush=True,
                )
                break
            time.sleep(_POLL_SECONDS)
        status = process.wait()
    if status not in (0, -signal.SIGKILL):
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise ValueError(
            f"`{shlex.join(words)}` ended with status {status}: {said[-1] if said else 'nothing said'}"
        )


def logged(folder: PhaseFolder, tag: str) -> dict[str, float]:
    """Return a curve by step; a step that was repeated after a kill must have the same value again.

    Args:
        folder: A phase.
        tag: Name of the curve in TensorBoard.
    """
    values: dict[str, float] = {}
    for step, value in curve(folder, tag):
        if values.setdefault(str(step), value) != value:
            values[f"{step} (repeated)"] = value
    return values


def _differences(one: Any, other: Any, path: str) -> Iterator[str]:
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield path
    elif isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in {**one, **other}:
            yield from _differences(one.get(key), other.get(key), f"{path} {key}")
    elif isinstance(one, Sequence) and isinstance(other, Sequence) and not isinstance(one, str):
        if len(one) != len(other):
            yield path
        for index, (left, right) in enumerate(zip(one, other, strict=False)):
            yield from _differences(left, right, f"{path} {index}")
    elif one != other:
        yield path
