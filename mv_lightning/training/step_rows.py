"""A resumed phase keeps the rows of its optimizer steps, whatever the number of its processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl

BATCH_SIZE, ACCUMULATE = "data.batch_size", "trainer.accumulate_grad_batches"


@dataclass(frozen=True)
class StepRows:
    """How the rows of an optimizer step are divided among processes and micro-batches."""

    batch_size: int
    """Maximum rows of a micro-batch."""
    accumulate: int
    """Micro-batches of each process."""
    processes: int

    @property
    def rows(self) -> int:
        """Rows of a step, over all processes."""
        return self.batch_size * self.accumulate * self.processes

    def __str__(self) -> str:
        """Return the product that the number of rows is."""
        return (
            f"{self.rows} ({BATCH_SIZE}={self.batch_size} x {ACCUMULATE}={self.accumulate} x "
            f"{self.processes} processes)"
        )


def current_step_rows(trainer: pl.Trainer) -> StepRows:
    """Return how the rows of a step are divided now.

    Args:
        trainer: With the data module attached.
    """
    accumulate = trainer.accumulate_grad_batches
    return StepRows(trainer.datamodule.batch_size, accumulate, trainer.world_size)


def stored_step_rows(checkpoint: Mapping[str, Any]) -> StepRows:
    """Return how the rows of a step were divided when a checkpoint was saved.

    Args:
        checkpoint: Of `ResumeCheckpoint`.
    """
    settings = checkpoint["settings"]
    return StepRows(settings[BATCH_SIZE], settings[ACCUMULATE], len(checkpoint["random"]))


def check_step_rows(trainer: pl.Trainer, stored: StepRows) -> None:
    """Refuse to resume where the rows of a step, or what is computed of them, would change.

    Args:
        trainer: With the data module attached.
        stored: Of the checkpoint.

    Raises:
        ValueError: A step would have another number of rows; or the micro-batches have changed, and
            the loss or an option depends on them.
    """
    now = current_step_rows(trainer)
    if now.rows != stored.rows:
        raise ValueError(
            f"expected optimizer steps of as many rows as before the interruption, {stored}, got "
            f"{now}. {_advice(stored.rows, now)}"
        )
    if trainer.datamodule.compares_rows and now.batch_size != stored.batch_size:
        raise ValueError(
            f"expected {BATCH_SIZE}={stored.batch_size} as before the interruption, got "
            f"{now.batch_size}: with model.pair_weight or data.packing=contaminated the loss "
            "depends on which rows share a micro-batch. Restore it"
        )
    if trainer.limit_train_batches != 1.0 and now.accumulate != stored.accumulate:
        raise ValueError(
            f"expected {ACCUMULATE}={stored.accumulate} as before the interruption, got "
            f"{now.accumulate}: trainer.limit_train_batches counts micro-batches of a process. "
            "Restore it, and the number of processes"
        )


def move_position(
    progress: Mapping[str, Any], stored: StepRows, steps: int, trainer: pl.Trainer
) -> None:
    """Make the position of a checkpoint that of the same optimizer step in today's micro-batches.

    Lightning counts the position in micro-batches of a process.

    Args:
        progress: `epoch_loop.batch_progress` of the checkpoint; changed in place.
        stored: Of the checkpoint.
        steps: Optimizer steps that the checkpoint has done.
        trainer: With the data module set up.
    """
    now, data = current_step_rows(trainer), trainer.datamodule
    if now == stored:
        return
    steps_of_epoch = -(-progress["current"]["completed"] // stored.accumulate)
    epochs = (steps - steps_of_epoch) // data.optimizer_steps
    position = min(steps_of_epoch * now.accumulate, data.micro_batches)
    progress["current"].update(dict.fromkeys(progress["current"], position))
    total = epochs * data.micro_batches + position
    progress["total"].update(dict.fromkeys(progress["total"], total))


def _advice(rows: int, now: StepRows) -> str:
    """How to have that many rows in a step."""
    if rows % (now.batch_size * now.processes) == 0:
        return f"Set {ACCUMULATE}={rows // (now.batch_size * now.processes)}"
    if rows % now.processes == 0:
        return (
            f"Set {BATCH_SIZE} and {ACCUMULATE} to numbers whose product is {rows // now.processes}"
        )
    return f"Use a number of processes that divides {rows}"
