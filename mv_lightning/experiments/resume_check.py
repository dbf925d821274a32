"""Compares an interrupted and resumed phase with an uninterrupted one, bit for bit."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mv_lightning.artifacts.curves import tensorboard_curve
from mv_lightning.artifacts.layout import PhaseFolder, checkpoint_step
from mv_lightning.experiments.child_run import KILLED, check_status, run_child

COMPARED = (
    "state_dict",
    "optimizer_states",
    "lr_schedulers",
    "MixedPrecision",
    "random",
    "global_step",
)
"""Parts of a checkpoint: weights, optimizer, schedule, the GradScaler of 16-mixed, random
generators, position."""


def train(args: Sequence[str], folder: PhaseFolder) -> None:
    """Train a phase in a child process.

    Args:
        args: The options of `fit`, without `run.dir`.
        folder: The phase.

    Raises:
        ValueError: The child failed.
    """
    _fit(args, folder)


def train_with_kills(
    args: Sequence[str], folder: PhaseFolder, steps: int, kills: int, seed: int
) -> None:
    """Train a phase, killed at random steps and started again with the same command.

    Args:
        args: The options of `fit`, without `run.dir`; they save a checkpoint after every step.
        folder: The phase.
        steps: Optimizer steps of the phase.
        kills: How many times the training is killed, less than `steps`.
        seed: Seed of the moments at which it is killed.

    Raises:
        ValueError: A child failed.
    """
    rng = random.Random(seed)
    for step in sorted(rng.sample(range(1, steps), kills)):
        if _fit(args, folder, _after_step(folder, step, rng.random())) == KILLED:
            print(f"  killed after step {max(_steps(folder))}", flush=True)
    _fit(args, folder)


def compare_phases(one: PhaseFolder, other: PhaseFolder) -> dict[str, list[str]]:
    """Compare the files of two finished phases.

    Args:
        one: A phase that kept its last checkpoint.
        other: Another one.

    Returns:
        For each part of the last checkpoint that one of them has, for the training losses and for
        the validation losses: the names of the values that differ in any bit.
    """
    from mv_lightning.training.checkpoint_files import checkpoints, read_checkpoint

    left, right = (read_checkpoint(checkpoints(folder.checkpoints)[0]) for folder in (one, other))
    present = [name for name in COMPARED if name in left or name in right]
    differences = {
        name: list(_differences(left.get(name), right.get(name), name)) for name in present
    }
    for tag in ("train/loss", "val/loss"):
        values = (logged_values(one, tag), logged_values(other, tag))
        differences[tag] = list(_differences(*values, "step"))
    return differences


def logged_values(folder: PhaseFolder, tag: str) -> dict[str, float]:
    """Return a curve by step; a step that was repeated with another value has two entries.

    Args:
        folder: A phase.
        tag: Name of the curve in TensorBoard.
    """
    values: dict[str, float] = {}
    for step, value in tensorboard_curve(folder, tag):
        if values.setdefault(str(step), value) != value:
            values[f"{step} (repeated)"] = value
    return values


def _fit(
    args: Sequence[str], folder: PhaseFolder, kill_when: Callable[[], bool] | None = None
) -> int:
    command = ["fit", *args, "--run.dir", str(folder.run)]
    log = folder.run / "log.txt"
    status = run_child(command, log, kill_when=kill_when)
    check_status(command, status, log)
    return status


def _after_step(folder: PhaseFolder, step: int, delay: float) -> Callable[[], bool]:
    """Return a condition that holds `delay` steps after the checkpoint of `step` has appeared.

    The duration of a step is that between the two newest checkpoints seen so far.
    """
    seen: dict[int, float] = {}
    deadline: float | None = None

    def due() -> bool:
        nonlocal deadline
        now = time.monotonic()
        for there in _steps(folder):
            seen.setdefault(there, now)
        if deadline is None and max(seen, default=0) >= step:
            times = sorted(seen.values())[-2:]
            deadline = now + delay * (times[-1] - times[0])
        return deadline is not None and now >= deadline

    return due


def _steps(folder: PhaseFolder) -> list[int]:
    from mv_lightning.training.checkpoint_files import checkpoints

    return [checkpoint_step(path) for path in checkpoints(folder.checkpoints)]


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
