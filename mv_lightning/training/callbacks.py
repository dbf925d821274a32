"""What is seen while a run goes on, and what it leaves behind."""

from __future__ import annotations

import resource
import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from mv_lightning.schema import Batch

ADAPTER = "adapter"
"""The PEFT folder that a phase leaves in its own folder."""
SUMMARY = "summary.json"
"""What a finished phase leaves: its presence says that the phase is finished."""


def peak_memory_gb(device: torch.device) -> float:
    """Return the most memory used so far, in GB (10^9 bytes): the GPU's if there is one, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class PhaseLogger(TensorBoardLogger):
    """TensorBoard with one step axis over all phases: a phase goes on where the one before ended."""

    step_offset = 0
    """Optimizer steps of the phases before."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log at the step counted over all phases."""
        super().log_metrics(metrics, None if step is None else step + self.step_offset)


class Vitals(pl.Callback):
    """Logs speed and memory at every optimizer step, and counts what the phase cost."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.seconds = 0.0
        """Time in training and validation, over all starts of the phase."""
        self.rows = 0
        """Rows trained on."""
        self.tokens = 0
        """Real tokens trained on: what the rows hold without sharing their prefix."""
        self._since = 0.0
        self._step_start = 0.0
        self._step_rows = 0
        self._step_tokens = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        for logger in trainer.loggers:
            if isinstance(logger, PhaseLogger):
                logger.step_offset = int(pl_module.steps_before)
        self._since = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Start the step's clock."""
        if not self._step_rows:
            self._step_start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Log the step if this was its last micro-batch."""
        self._step_rows += len(batch.packing.lengths)
        self._step_tokens += batch.tokens
        if trainer.fit_loop._should_accumulate():
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        elapsed = time.perf_counter() - self._step_start
        pl_module.log_dict(
            {
                "speed/rows_per_s": self._step_rows * trainer.world_size / elapsed,
                "speed/tokens_per_s": self._step_tokens * trainer.world_size / elapsed,
                "memory/peak_gb": peak_memory_gb(pl_module.device),
            }
        )
        self.rows += self._step_rows * trainer.world_size
        self.tokens += self._step_tokens * trainer.world_size
        self._step_rows = self._step_tokens = 0

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self.seconds += time.perf_counter() - self._since

    def state_dict(self) -> dict[str, Any]:
        """Return what has been counted."""
        running = time.perf_counter() - self._since
        return {"seconds": self.seconds + running, "rows": self.rows, "tokens": self.tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.seconds, self.rows, self.tokens = (state_dict[name] for name in ("seconds", "rows", "tokens"))
