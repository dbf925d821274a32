"""The log loss of the validations of a phase, for a process that may stop it early."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl

from mv_lightning.atomic import read_json, write_json
from mv_lightning.training.stopping import planned_steps


class ValidationRecord(pl.Callback):
    """Writes the log loss after each validation to a file that is whole at any moment.

    That after the last step is left out: there is nothing left to stop. A resumed phase continues
    the file; a step that is repeated after a kill gets the same value.
    """

    def __init__(self, path: str) -> None:
        """Write nothing yet.

        Args:
            path: The file.
        """
        self._path = Path(path)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the step, if training goes on after this validation."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero:
            return
        if trainer.global_step >= planned_steps(trainer):
            return
        losses = {
            **read_validation_record(self._path),
            trainer.global_step: float(trainer.callback_metrics["val/log_loss"]),
        }
        write_json(self._path, {str(step): loss for step, loss in sorted(losses.items())})


def read_validation_record(path: Path) -> dict[int, float]:
    """Return the log loss of each validation so far, by optimizer step; empty without a file.

    Args:
        path: What `ValidationRecord` writes.
    """
    if not path.is_file():
        return {}
    return {int(step): loss for step, loss in read_json(path).items()}
