"""How many steps a phase is planned to take, and why it ended."""

from __future__ import annotations

from typing import Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

StopReason = Literal["planned", "early_stopped", "time", "interrupted", "callback"]
"""`planned`: all planned steps are done. `early_stopped`: an EarlyStopping callback ended the
phase. `time`: trainer.max_time is over. `interrupted`: a signal. `callback`: another callback set
`trainer.should_stop`."""
FINAL_REASONS = ("planned", "early_stopped")
"""After these a phase is finished; after the others the same command resumes it."""


class TrainingStopped(Exception):
    """Raised at the boundary of an optimizer step, after the state was saved."""

    def __init__(self, reason: StopReason, step: int, signal_number: int | None = None) -> None:
        """Keep why and where.

        Args:
            reason: `time` or `interrupted`.
            step: Optimizer steps done.
            signal_number: The signal that interrupted the run.
        """
        super().__init__(reason)
        self.reason: StopReason = reason
        self.step = step
        self.signal_number = signal_number


def planned_steps(trainer: pl.Trainer) -> int:
    """Return the optimizer steps after which the phase is finished.

    `trainer.estimated_stepping_batches` would build the data loaders, before a resumed position is
    known.

    Args:
        trainer: With the data module attached and set up.

    Raises:
        ValueError: Neither epochs nor steps are limited.
    """
    limits = []
    if trainer.max_steps >= 0:
        limits.append(trainer.max_steps)
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        limits.append(trainer.max_epochs * trainer.datamodule.optimizer_steps)
    if not limits:
        raise ValueError(
            "expected a limit on the training, got trainer.max_epochs=-1 and trainer.max_steps=-1. "
            "Set one of them: the learning rate is scheduled over the planned steps"
        )
    return min(limits)


def stop_reason(trainer: pl.Trainer) -> StopReason:
    """Return why the training loop ended.

    Args:
        trainer: At the end of training.
    """
    if trainer.global_step >= planned_steps(trainer):
        return "planned"
    for callback in trainer.early_stopping_callbacks:
        assert isinstance(callback, EarlyStopping)
        if callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            return "early_stopped"
    return "callback"
