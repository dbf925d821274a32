"""The progress of a command: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

from mv_lightning.training.stopping import planned_steps

LINE_SECONDS = 30.0
"""Least time between two lines of progress."""


def progress_callback() -> ProgressBar:
    """Return the callback that suits the standard output."""
    return PhaseProgressBar() if sys.stdout.isatty() else ProgressLines()


class PhaseProgressBar(TQDMProgressBar):
    """A bar that ends where the phase ends: `trainer.max_steps` may stop it before the epoch is
    over."""

    @property
    def total_train_batches(self) -> int | float:
        """Micro-batches of this epoch that will be trained on."""
        trainer, batches = self.trainer, super().total_train_batches
        if trainer.max_steps < 0:
            return batches
        return min(batches, trainer.max_steps * trainer.accumulate_grad_batches)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return loss and accuracy, without the logger's version that Lightning adds."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class ProgressLines(ProgressBar):
    """Prints a line after the first step or batch, after the last one, and at intervals.

    A bar would put every refresh on a line of its own in a log file.
    """

    def __init__(self) -> None:
        """Start with nothing printed."""
        super().__init__()
        self._enabled = True
        self._started_at = 0.0
        self._printed_at = 0.0

    def disable(self) -> None:
        """Print nothing; Lightning disables progress in all processes but the first."""
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Print the optimizer step if a line is due."""
        if trainer.fit_loop._should_accumulate():
            return
        step, steps = trainer.global_step, planned_steps(trainer)
        if not self._is_due(step == steps):
            return
        metrics = trainer.progress_bar_metrics
        loss, accuracy = (float(metrics[f"train/{name}"]) for name in ("loss", "acc"))
        seconds = time.monotonic() - self._started_at
        print(
            f"step {step} of {steps}: loss {loss:.3f}, accuracy {accuracy:.3f}, {seconds:.0f} s",
            flush=True,
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the metrics of a validation during training."""
        if not self._enabled or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = trainer.callback_metrics
        loss, accuracy, auroc = (float(metrics[f"val/{name}"]) for name in ("loss", "acc", "auroc"))
        print(
            f"validation at step {trainer.global_step}: loss {loss:.3f}, accuracy {accuracy:.3f}, "
            f"AUROC {auroc:.3f}",
            flush=True,
        )

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start()

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Print the batch if a line is due; the batches of all loaders are counted together."""
        batch, *dataloader_idx = args[2:]
        earlier = sum(trainer.num_test_batches[: sum(dataloader_idx)])
        self._print_batch("test", earlier + batch + 1, sum(trainer.num_test_batches))

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start()

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Print the batch if a line is due."""
        self._print_batch("prediction", args[2] + 1, sum(trainer.num_predict_batches))

    def _start(self) -> None:
        self._started_at, self._printed_at = time.monotonic(), 0.0

    def _is_due(self, last: bool) -> bool:
        now = time.monotonic()
        if not self._enabled or not (last or now - self._printed_at >= LINE_SECONDS):
            return False
        self._printed_at = now
        return True

    def _print_batch(self, name: str, batch: int, batches: float) -> None:
        if self._is_due(batch == batches):
            seconds = time.monotonic() - self._started_at
            print(f"{name}: batch {batch} of {batches}, {seconds:.0f} s", flush=True)
