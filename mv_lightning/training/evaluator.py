"""Collects what the model computes for evaluated rows, and logs their metrics."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from mv_lightning.metrics.scores import check_collapse, metric_values
from mv_lightning.schema import EvalOutputs

SHOWN = ("loss", "acc", "auroc")
"""Metrics in the progress bar."""


class Evaluator(pl.Callback):
    """Gathers the rows of all processes, so that every metric is exact however they were
    sharded."""

    def __init__(self) -> None:
        """Start without an evaluation."""
        self.outputs: EvalOutputs | None = None
        """The last complete evaluation, of all processes' rows."""
        self.step = -1
        """Optimizer step of that evaluation; -1 where there is none."""
        self.adversarial: EvalOutputs | None = None
        """Of the adversarial rows that `test` evaluates beside the test rows, if there are any."""
        self._batches: list[np.ndarray] = []
        self._adversarial_batches: list[np.ndarray] = []

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Keep the batch's rows."""
        self._batches.append(outputs.cpu().numpy())

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's rows; the second loader has the adversarial ones."""
        batches = self._adversarial_batches if dataloader_idx else self._batches
        batches.append(outputs.cpu().numpy())

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the metrics over all rows."""
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the metrics over all rows."""
        self._finish(trainer, pl_module, "test")
        if self._adversarial_batches:
            batches, self._adversarial_batches = self._adversarial_batches, []
            self.adversarial = _gather(trainer, batches, "adversarial")

    def _finish(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        batches, self._batches = self._batches, []
        self.outputs = outputs = _gather(trainer, batches, stage)
        self.step = trainer.global_step
        self._warn_of_collapse(trainer, outputs.log_odds_N > 0)
        scores = metric_values(
            outputs.labels_N, outputs.log_odds_N, question_ids_N=outputs.question_ids_N
        )
        values = {"loss": outputs.losses_N.mean(), "acc": scores.pop("accuracy"), **scores}
        for name, value in values.items():
            # The logger has the curves of the training; `validate` and `test` write files.
            in_logger = trainer.state.fn == "fit"
            module.log(f"{stage}/{name}", float(value), prog_bar=name in SHOWN, logger=in_logger)

    @staticmethod
    def _warn_of_collapse(trainer: pl.Trainer, verdicts_N: np.ndarray) -> None:
        warning = check_collapse(verdicts_N)
        if warning and not trainer.sanity_checking and trainer.is_global_zero:
            print(f"\nwarning: {warning}")


def _gather(trainer: pl.Trainer, batches: list[np.ndarray], split_name: str) -> EvalOutputs:
    """The rows of all processes in the order of their numbers."""
    parts = [np.concatenate(batches, axis=1)]
    if trainer.world_size > 1:
        parts *= trainer.world_size
        torch.distributed.all_gather_object(parts, parts[0])
    columns_4N = np.concatenate(parts, axis=1)
    rows_N, labels_N, odds_N, losses_N = columns_4N[:, columns_4N[0].argsort()]
    rows_N = rows_N.astype(np.int64)
    split = trainer.datamodule.splits[split_name]
    question_ids_N = split.question_ids_N[split.positions(rows_N)]
    return EvalOutputs(rows_N, labels_N == 1, odds_N, losses_N, question_ids_N)
