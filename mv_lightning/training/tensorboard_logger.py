"""TensorBoard curves with one step axis over all phases of a run."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from mv_lightning.artifacts.layout import PhaseFolder


class PhaseLogger(TensorBoardLogger):
    """Logs a phase from the step at which the phase before it ended."""

    def __init__(self, folder: PhaseFolder, steps_before: int) -> None:
        """Log to the phase's TensorBoard folder.

        Args:
            folder: The phase.
            steps_before: Optimizer steps of the phases before.
        """
        curves = folder.tensorboard
        super().__init__(str(curves.parent.parent), name=curves.parent.name, version=curves.name)
        self._steps_before = steps_before

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log at the step counted over all phases."""
        super().log_metrics(metrics, None if step is None else step + self._steps_before)
