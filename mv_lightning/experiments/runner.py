"""Runs an experiment, one run after another in this process.

The runs share the loaded base and the tokenised rows. One that is done is skipped, and an
interrupted one resumes exactly, so the same command continues wherever the last one stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from mv_lightning.artifacts.layout import ExperimentFolder
from mv_lightning.experiments.runs import Run

if TYPE_CHECKING:
    from mv_lightning.training.sharing import SharedResources

_TEST_OPTIONS = (
    "--model.init_from=null",  # the adapter that was trained, not one that training started from
    "--data.adversarial_rows=0",  # a check of a verifier, not a part of the comparison
)


def run_all(runs: Sequence[Run], folder: Path) -> dict[str, str]:
    """Train and evaluate what is not done yet.

    Args:
        runs: All runs of the experiment.
        folder: Of the experiment.

    Returns:
        The runs that failed, by name, with the message: a loss that is not finite, too little GPU
        memory, an option that does not suit the base. The others do not depend on them.

    Raises:
        ValueError: Another process uses the folder.
        OSError: The disk is full.
        SystemExit: A signal stopped a run; its state is saved.
    """
    from mv_lightning.training.run_lock import RunLock
    from mv_lightning.training.sharing import SharedResources

    experiment = ExperimentFolder(folder)
    lock = RunLock(experiment.lock, "--folder")
    lock.acquire()
    shared = SharedResources(experiment.tokens, experiment.summaries)
    clock = _Clock(runs)
    failures: dict[str, str] = {}
    try:
        for number, run in enumerate(runs, 1):
            if run.is_done:
                continue
            print(f"\n[{number} of {len(runs)}] {run.name}{clock.time_left()}", flush=True)
            failure = _train_and_evaluate(run, shared)
            if failure is None:
                clock.finished(run)
            else:
                failures[run.name] = failure
                print(f"failed: {failure}", flush=True)
    finally:
        lock.release()
    return failures


def _train_and_evaluate(run: Run, shared: SharedResources) -> str | None:
    """Return the message of the error that a run ended with, None if it is done."""
    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from mv_lightning.training import cli

    try:
        if not run.is_trained:
            cli.run(["fit", *run.args], shared)
        if run.is_trained and not run.is_done:
            cli.run(["test", *run.args, *_TEST_OPTIONS], shared)
    except (ValueError, MisconfigurationException, torch.OutOfMemoryError) as error:
        return str(error)
    return None if run.is_done else "stopped before its last step by trainer.max_time or a callback"


class _Clock:
    """Estimates the time left from the runs that were finished so far."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._left = {run.name: run.work for run in runs if not run.is_done}
        self._done = 0
        self._seconds = 0.0
        self._started = time.monotonic()

    def time_left(self) -> str:
        """Start the clock of a run; return the estimate as a part of a line."""
        self._started = time.monotonic()
        if not self._done:
            return ""
        seconds = self._seconds / self._done * sum(self._left.values())
        return f" (about {timedelta(seconds=round(seconds))} left)"

    def finished(self, run: Run) -> None:
        """Stop the clock of a run."""
        self._seconds += time.monotonic() - self._started
        self._done += self._left.pop(run.name)
