"""What is seen while a run goes on, and what it leaves behind."""

from __future__ import annotations

import csv
import resource
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from mv_lightning.atomic import atomic_file, write_json
from mv_lightning.schema import Batch

ADAPTER = "adapter"
"""The PEFT folder that a phase leaves in its own folder."""
SUMMARY = "summary.json"
"""What a finished phase leaves: its presence says that the phase is finished."""
SUBMISSION = "submission.csv"
PROBABILITIES = "probabilities.csv"
PREDICTION_SUMMARY = "prediction.json"


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


class PredictionWriter(pl.Callback):
    """Writes the contest's CSV and, beside it, the probabilities in full precision."""

    def __init__(self, folder: Path) -> None:
        """Keep where to.

        Args:
            folder: The run's folder.
        """
        self._folder = folder
        self._log_odds: dict[int, float] = {}
        self._since = 0.0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start with no rows."""
        self._log_odds = {}
        self._since = time.perf_counter()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect a batch."""
        rows_B, odds_B = outputs
        self._log_odds.update(zip(rows_B.tolist(), odds_B.tolist(), strict=True))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write both files, in source order.

        Raises:
            ValueError: Rows of the source have no prediction.
        """
        encoded = trainer.datamodule.encoded["predict"]
        write_predictions(self._folder, self._log_odds, len(encoded))
        summary: dict[str, Any] = {
            "rows": len(encoded),
            "seconds": time.perf_counter() - self._since,
            "peak_memory_gb": peak_memory_gb(pl_module.device),
            "submission": str(self._folder / SUBMISSION),
        }
        labels_N = trainer.datamodule.predict_labels_N
        if labels_N is not None:
            right = sum((self._log_odds[row] > 0) == bool(label) for row, label in enumerate(labels_N))
            summary["accuracy"] = right / len(encoded)
        write_json(self._folder / PREDICTION_SUMMARY, summary)
        told = f", accuracy {summary['accuracy']:.3f}" if "accuracy" in summary else ""
        print(f"{len(encoded):,} rows predicted{told}: {self._folder / SUBMISSION}")


def write_predictions(folder: Path, log_odds: dict[int, float], rows: int) -> None:
    """Write `submission.csv` (ID, is_correct) and `probabilities.csv` (ID, probability, log_odds).

    Args:
        folder: Where to.
        log_odds: log P(True) - log P(False) by source row number.
        rows: Rows of the source; each must have a prediction.

    Raises:
        ValueError: The rows predicted are not exactly those of the source.
    """
    if log_odds.keys() != set(range(rows)):
        missing = sorted(set(range(rows)) - log_odds.keys())
        raise ValueError(
            f"{len(log_odds)} predictions for {rows} rows; the first rows without one: {missing[:5]}. Nothing was "
            "written; run predict again"
        )
    with atomic_file(folder / SUBMISSION) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["ID", "is_correct"])
        table.writerows([row, log_odds[row] > 0] for row in range(rows))
    with atomic_file(folder / PROBABILITIES) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["ID", "probability", "log_odds"])
        odds = torch.tensor([log_odds[row] for row in range(rows)], dtype=torch.float64)
        table.writerows(zip(range(rows), odds.sigmoid().tolist(), odds.tolist(), strict=True))
