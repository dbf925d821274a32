"""Stores predictions as they are made, and publishes them when they are complete."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from mv_lightning.artifacts.calibrations import AdapterCalibration
from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.prediction_journals import PredictionJournals
from mv_lightning.artifacts.predictions import (
    MISSING_VERDICT,
    SampleSubmission,
    read_sample_submission,
    verdicts,
    write_predictions,
)
from mv_lightning.atomic import Journal
from mv_lightning.formatting import shorten
from mv_lightning.hashing import sha256_file
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.model.generate import find_verdict
from mv_lightning.schema import Batch
from mv_lightning.training.decision import decide
from mv_lightning.training.memory import peak_memory_gb
from mv_lightning.training.run_lock import RunLock
from mv_lightning.training.settings import PredictSettings
from mv_lightning.versioning import write_versioned_json

MAX_EXAMPLES = 5
"""Malformed answers, and rows without a score, that the summary shows."""


class PredictionWriter(pl.Callback):
    """Writes the contest's CSV, and the probabilities in full precision.

    Every batch is appended to a journal at once. A run that finds journals of the same rows,
    adapter and prompt predicts only the rows that are not in them, in the batches that the
    interrupted run would have made, so its result is that of a run without interruption. The number
    of processes and `data.eval_tokens` may change in between: the remaining rows are then sharded
    or grouped again.

    A generated verdict is stored as log-odds of 1 (True) and -1 (False), and a text without a
    verdict as 0, which is a verdict of False: see `model/generate.py`.
    """

    def __init__(
        self,
        folder: RunFolder,
        weights: Path | None,
        calibration: Calibration,
        stored: AdapterCalibration | None,
        settings: PredictSettings,
    ) -> None:
        """Touch nothing yet.

        Args:
            folder: The run's folder; all processes must see it.
            weights: File that the adapter is loaded from: its weights or a checkpoint; None for the
                base without an adapter.
            calibration: Applied when the files are written; the journals hold raw log-odds.
            stored: What validation rows of the adapter left.
            settings: Of the prediction.
        """
        self._folder = folder
        self._weights = weights
        self._calibration = calibration
        self._stored = stored
        self._settings = settings
        self._lock = RunLock(folder.prediction_lock)
        self._journals = PredictionJournals(folder, {})
        self._sample: SampleSubmission | None = None
        self._journal: Journal | None = None
        self._rows_before = 0
        self._batch_end = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the folder, and leave out the rows that an interrupted run has stored.

        Raises:
            ValueError: Another process predicts in this folder, the sample submission has other
                rows, or there are no adapter weights.
        """
        data = trainer.datamodule
        if trainer.is_global_zero:
            self._lock.acquire()
        rows = len(data.predict_rows.table)
        if self._settings.sample_submission is not None:
            path = Path(self._settings.sample_submission).expanduser()
            self._sample = read_sample_submission(path, data.predict_rows.ids)
        identity = {
            "source": data.predict_rows.fingerprint,
            "adapter": _fingerprint(self._weights),
            "prompt": data.prompt.fingerprint,
            "max_length": data.max_length,
            "quantization": pl_module.base_settings.quantization,
            "precision": trainer.precision,
            "predict_mode": pl_module.predict_mode,
        }
        self._journals = PredictionJournals(self._folder, identity)
        stored_N = np.zeros(rows, dtype=bool)
        if trainer.is_global_zero:
            self._journals.rename_others()
            stored_N = ~np.isnan(self._journals.log_odds(rows))
        # No process appends before all have this, so no line was being written while it was read.
        stored_N = trainer.strategy.broadcast(stored_N)
        data.exclude_from_prediction(stored_N)
        self._rows_before = int(stored_N.sum())
        if self._rows_before and trainer.is_global_zero:
            print(
                f"{self._folder.path}: {self._rows_before:,} of "
                f"{len(data.splits['predict'].encoded):,} rows were predicted before the "
                "interruption; resuming with the others"
            )

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open this process's journal."""
        self._journal = self._journals.open(trainer.global_rank)
        self._batch_end = time.perf_counter()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Store a batch as one line, so that it is stored completely or not at all.

        Raises:
            ValueError: A log-odds is not finite.
        """
        assert self._journal is not None
        rows_B, odds_B, texts = outputs
        self._check_finite(rows_B, odds_B)
        real_B = rows_B >= 0  # the row of a dummy batch has the number -1
        if not real_B.any():
            return
        now = time.perf_counter()
        line = {
            "rows": rows_B[real_B].tolist(),
            "log_odds": odds_B[real_B].tolist(),
            "seconds": now - self._batch_end,
        }
        self._batch_end = now
        if texts:
            line["texts"] = [text for text, real in zip(texts, real_B, strict=True) if real]
        self._journal.append(line)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Publish when every process has finished: both CSV files in source order, then the
        summary. A part of the rows (`trainer.limit_predict_batches`) stays in the journals.

        Raises:
            ValueError: Rows of the source have no prediction.
        """
        assert self._journal is not None
        self._journal.close()
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        data = trainer.datamodule.predict_rows
        log_odds_N = self._journals.log_odds(len(data.table))
        # Rows that do not fit were left out of the split.
        rows_M = trainer.datamodule.splits["predict"].encoded.rows_N
        left = rows_M[np.isnan(log_odds_N[rows_M])].tolist()
        if left:
            self._check_limit(left, len(rows_M), trainer.limit_predict_batches)
            return
        settings = (self._calibration, self._stored, self._settings)
        decision = decide(log_odds_N[rows_M], *settings, data.question_ids_N[rows_M])
        log_odds_N[rows_M] = decision.log_odds_N
        write_predictions(self._folder, data.ids, log_odds_N, decision.threshold, self._sample)
        summary: dict[str, Any] = {
            "rows": len(log_odds_N),
            "rows_before_interruption": self._rows_before,
            "seconds": self._journals.seconds(),
            "peak_memory_gb": peak_memory_gb(pl_module.device),
            "submission": str(self._folder.submission),
            "predict_mode": pl_module.predict_mode,
            **decision.summary,
        }
        notes = ""
        missing_N = np.flatnonzero(np.isnan(log_odds_N))
        if len(missing_N):
            summary["missing"] = {
                "rows": len(missing_N),
                "verdict": MISSING_VERDICT,
                "examples": data.ids[missing_N[:MAX_EXAMPLES].tolist()],
            }
            notes += (
                f", {len(missing_N):,} of them too long for a score and taken as {MISSING_VERDICT}"
            )
        if pl_module.predict_mode == "generate":
            malformed = summary["malformed"] = self._malformed(len(rows_M))
            share = f"{malformed['share']:.1%}"
            notes += f", {malformed['rows']:,} ({share}) without a verdict and taken as False"
        if data.labels_N is not None:
            correct_N = verdicts(log_odds_N, decision.threshold) == data.labels_N
            summary["accuracy"] = float(correct_N.mean())
            notes += f", accuracy {summary['accuracy']:.3f}"
        write_versioned_json(self._folder.prediction_summary, summary)
        self._journals.delete()
        for message in decision.messages:
            print(message)
        print(f"{len(log_odds_N):,} rows predicted{notes}: {self._folder.submission}")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the folder back."""
        self._lock.release()

    def _check_finite(self, rows_B: torch.Tensor, odds_B: torch.Tensor) -> None:
        if odds_B.isfinite().all():
            return
        rows = rows_B[~odds_B.isfinite()].tolist()
        raise ValueError(
            f"the log-odds of the source rows {rows} are not finite. Check these rows and the "
            f"adapter ({self._weights}). If trainer.precision is 16-mixed, it may overflow: try "
            "bf16-mixed or 32-true"
        )

    def _check_limit(self, left: list[int], rows: int, limit: int | float) -> None:
        """Say that rows are left because the user limited the batches, or fail."""
        if isinstance(limit, float) and limit == 1.0:
            raise ValueError(
                f"expected a prediction of each of {rows:,} rows, got none of {len(left):,} in "
                f"{self._folder.path}: {shorten(left)}. Nothing was written. Let all processes "
                "write to the same folder, and run predict again"
            )
        print(
            f"{rows - len(left):,} of {rows:,} rows are predicted and stored, as "
            f"trainer.limit_predict_batches={limit} says; the same command without it predicts "
            "the others and writes the files"
        )

    def _malformed(self, rows: int) -> dict[str, Any]:
        """Count the texts without a verdict, and return a few of them."""
        malformed = []
        for row, text in sorted(self._journals.texts()):
            if find_verdict(text) is None:
                malformed.append({"row": row, "text": text})
        return {
            "rows": len(malformed),
            "share": len(malformed) / rows,
            "examples": malformed[:MAX_EXAMPLES],
        }


def _fingerprint(path: Path | None) -> str:
    if path is None:
        return "none"
    try:
        return sha256_file(path)[:16]
    except OSError as error:
        raise ValueError(
            f"no adapter to predict with: {path} cannot be read ({error.strerror}). Finish the "
            "phase that trains it, or set model.init_from to the folder of another adapter"
        ) from error
