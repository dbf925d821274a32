"""The training of one trial of a search, in a process of its own.

A trial that takes too much memory or diverges ends its own process only. It is watched through the
record of its validations, and killed where it is to be stopped early.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from mv_lightning.artifacts.evaluations import read_metrics
from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.artifacts.phase_results import read_summary
from mv_lightning.experiments.child_run import KILLED, check_status, run_child
from mv_lightning.experiments.search import FINISHED, PRUNED
from mv_lightning.training.run_lock import wait_for_lock
from mv_lightning.training.validation_record import ValidationRecord, read_validation_record

DIVERGED, OUT_OF_MEMORY = "diverged", "out of memory"
FAILURES = {
    DIVERGED: ("is not finite", "are not finite"),
    OUT_OF_MEMORY: ("does not fit into the memory", "out of memory", "allocate memory"),
}
"""Outcomes of failed trials, and what the output of such a trial contains, in lower case."""
_IN_USE = "is in use by process"
"""Printed by a child whose folder another process trains in."""
_TERMINATED = (-signal.SIGTERM, 128 + signal.SIGTERM)
_WATCH_SECONDS = 0.5


@dataclass(frozen=True)
class TrialRun:
    """How a trial is trained, and where it is stored."""

    args: Sequence[str]
    """The options of `fit`, without those that every trial gets."""
    phase: PhaseFolder
    record: Path
    """File of its validations."""
    log: Path
    """File of its output."""

    def fit_args(self) -> list[str]:
        """Return the options of `fit`."""
        callback = f"{ValidationRecord.__module__}.{ValidationRecord.__qualname__}"
        return [
            *self.args,
            f"--run.dir={self.phase.run}",
            f"--trainer.callbacks+={callback}",
            f"--trainer.callbacks.path={self.record}",
        ]

    def result(self) -> tuple[float, int]:
        """Return the log loss on the validation rows after the last step, and its number."""
        log_loss = read_metrics(self.phase)["val"]["metrics"]["log_loss"]["value"]
        return log_loss, read_summary(self.phase)["steps"]


def train(run: TrialRun, should_stop: Callable[[Mapping[int, float]], bool]) -> str:
    """Train a trial to its end, from its last checkpoint if it was interrupted.

    Args:
        run: The trial.
        should_stop: Called with the log loss of all validations so far, by optimizer step, whenever
            there is another one; the trial is stopped once it returns True.

    Returns:
        `FINISHED`, `PRUNED`, or one of `FAILURES`.

    Raises:
        ValueError: It failed for another reason, which would end other trials, too.
        SystemExit: This process was told to end; the trial has saved its state.
    """
    watch = _Watch(run.record, should_stop)
    command = ["fit", *run.fit_args()]
    status, output = _run(command, run, watch)
    while status and _IN_USE in output:
        status, output = _run(command, run, watch)
    if watch.outcome is not None:
        return watch.outcome
    watch.check()  # the validations since the last look
    if status in _TERMINATED:
        sys.exit(128 + signal.SIGTERM)
    if status == 0 and not run.phase.summary.is_file():
        raise ValueError(
            f"{run.phase.path} stopped before its last step: see {run.log}. Leave trainer.max_time "
            "and callbacks that stop a training out of a search"
        )
    if status == 0:
        return FINISHED
    if status == KILLED:  # by the system
        return OUT_OF_MEMORY
    for outcome, signs in FAILURES.items():
        if any(sign in output for sign in signs):
            return outcome
    check_status(command, status, run.log)
    raise AssertionError("check_status raises for every other status")


def _run(command: Sequence[str], run: TrialRun, watch: _Watch) -> tuple[int, str]:
    """Run a child once no other process trains the trial: that of a killed parent may still.

    Returns:
        Its status, and what it printed, in lower case.
    """
    with wait_for_lock(run.phase.lock):
        pass
    before = run.log.stat().st_size if run.log.exists() else 0
    status = run_child(command, run.log, kill_when=watch.is_due)
    with run.log.open("rb") as file:
        file.seek(before)
        return status, file.read().decode("utf-8", errors="replace").lower()


class _Watch:
    """Looks at the record of a trial from time to time."""

    def __init__(self, record: Path, should_stop: Callable[[Mapping[int, float]], bool]) -> None:
        self.outcome: str | None = None
        """Why the trial was stopped; None where it was not."""
        self._record = record
        self._should_stop = should_stop
        self._next = 0.0
        self._seen: Set[int] = set()

    def is_due(self) -> bool:
        """Whether the trial is to be killed; called continually."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + _WATCH_SECONDS
        return self.check()

    def check(self) -> bool:
        """Whether the validations so far say that the trial is to be stopped."""
        losses = read_validation_record(self._record)
        if losses.keys() != self._seen:
            self._seen = losses.keys()
            if not all(map(math.isfinite, losses.values())):
                self.outcome = DIVERGED
            elif self._should_stop(losses):
                self.outcome = PRUNED
        return self.outcome is not None
