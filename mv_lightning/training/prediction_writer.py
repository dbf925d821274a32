"""Predictions: kept as they are made, taken up after an interruption, and published only when they are complete."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.predictions import (
    SampleSubmission,
    read_sample_submission,
    write_predictions,
)
from mv_lightning.artifacts.row_ids import row_number_ids
from mv_lightning.atomic import Journal, rename_existing
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.model.generate import find_verdict
from mv_lightning.schema import Batch
from mv_lightning.training.callbacks import peak_memory_gb
from mv_lightning.versioning import write_versioned_json

EXAMPLES = 5
"""Malformed answers that are shown."""


class PredictionWriter(pl.Callback):
    """Writes the contest's CSV and, beside it, the probabilities in full precision.

    Every batch goes to the part file of its process at once. A run that finds part files of the same rows, adapter and
    prompt predicts only the rows that are not in them, in the batches that the interrupted run would have made, so its
    result is that of a run without interruption. The number of processes and `data.eval_tokens` may change in between:
    the remaining rows are then dealt or grouped anew.

    A generated verdict stands in the files as log-odds of 1 (True) and -1 (False), a text without a verdict as 0, which
    is a verdict of False: see `model/generate.py`.
    """

    def __init__(
        self,
        folder: RunFolder,
        weights: Path,
        calibration: Calibration,
        sample_submission: Path | None = None,
    ) -> None:
        """Keep where to, and what the predictions belong to.

        Args:
            folder: The run's folder; all processes must see it.
            weights: File that the adapter is loaded from: an adapter's weights or a checkpoint.
            calibration: Applied when the files are written; the part files hold what the model said.
            sample_submission: CSV whose IDs the submission must have.
        """
        self._folder = folder
        self._weights = weights
        self._calibration = calibration
        self._sample_submission = sample_submission
        self._sample: SampleSubmission | None = None
        self._identity: dict[str, Any] = {}
        self._taken_up = 0
        self._part: Journal | None = None
        self._kept_at = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take up what an interrupted run left, before batches are made.

        Raises:
            ValueError: The sample submission wants other rows, or there are no adapter weights.
        """
        data = trainer.datamodule
        if self._sample_submission is not None:
            ids = row_number_ids(len(data.encoded["predict"]))
            self._sample = read_sample_submission(self._sample_submission, ids)
        self._identity = {
            "source": data.predict_fingerprint,
            "adapter": _sha256(self._weights),
            "prompt": data.prompt.fingerprint,
            "max_length": data.max_length,
            "quantization": pl_module.base_settings.quantization,
            "precision": trainer.precision,
            "predict_mode": pl_module.predict_mode,
        }
        done: list[int] = []
        if trainer.is_global_zero:
            self._move_strangers_aside()
            done = sorted(row for row, _ in self._read_parts("log_odds"))
            if done:
                print(
                    f"{self._folder.path}: {len(done):,} of {len(data.encoded['predict']):,} rows were predicted before the "
                    "interruption: going on with the others"
                )
        # Nobody appends before everybody has this, so the reading above met no line that was being written.
        data.predicted_rows = trainer.strategy.broadcast(done)
        self._taken_up = len(data.predicted_rows)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open this process's part file."""
        path = self._folder.journal(trainer.global_rank)
        new = not path.exists()
        self._part = Journal(path)
        if new:
            self._part.append(self._identity)
        self._kept_at = time.perf_counter()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch; one line, so that a batch is there whole or not at all.

        Raises:
            ValueError: The model gave something that is not a number.
        """
        assert self._part is not None
        rows_B, odds_B, texts = outputs
        if not odds_B.isfinite().all():
            raise ValueError(
                f"the log-odds of the source rows {rows_B[~odds_B.isfinite()].tolist()} are not finite; look at these "
                f"rows and at the adapter ({self._weights}). If trainer.precision is 16-mixed, it may overflow: try "
                "bf16-mixed or 32-true"
            )
        real_B = rows_B >= 0  # a stand-in's row has the number -1
        if real_B.any():
            now = time.perf_counter()
            line = {
                "rows": rows_B[real_B].tolist(),
                "log_odds": odds_B[real_B].tolist(),
                "seconds": now - self._kept_at,
            }
            self._kept_at = now
            if texts:
                line["texts"] = [text for text, real in zip(texts, real_B, strict=True) if real]
            self._part.append(line)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Publish when every process is through: both files in source order, the summary, then no part files.

        Raises:
            ValueError: Rows of the source have no prediction.
        """
        assert self._part is not None
        self._part.close()
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        said = dict(self._read_parts("log_odds"))
        rows = len(trainer.datamodule.encoded["predict"])
        calibrated = self._calibration.apply(np.array(list(said.values())))
        log_odds, threshold = (
            dict(zip(said, calibrated.tolist(), strict=True)),
            self._calibration.threshold,
        )
        write_predictions(self._folder, row_number_ids(rows), log_odds, threshold, self._sample)
        summary: dict[str, Any] = {
            "rows": rows,
            "rows_before_interruption": self._taken_up,
            # Of all starts, without what an interruption made worthless; processes work side by side.
            "seconds": max(
                sum(line["seconds"] for line in Journal.read(part)[1:]) for part in self._parts()
            ),
            "peak_memory_gb": peak_memory_gb(pl_module.device),
            "submission": str(self._folder.submission),
            "predict_mode": pl_module.predict_mode,
            "calibration": self._calibration.to_json(),
        }
        told = ""
        if pl_module.predict_mode == "generate":
            summary["malformed"] = malformed = self._malformed(rows)
            told = f", {malformed['rows']:,} ({malformed['share']:.1%}) without a verdict and taken as False"
        labels_N = trainer.datamodule.predict_labels_N
        if labels_N is not None:
            right = sum(
                (log_odds[row] > threshold) == bool(label) for row, label in enumerate(labels_N)
            )
            summary["accuracy"] = right / rows
            told += f", accuracy {summary['accuracy']:.3f}"
        write_versioned_json(self._folder.prediction_summary, summary)
        for part in self._parts():
            part.unlink()
        print(f"{rows:,} rows predicted{told}: {self._folder.submission}")

    def _parts(self) -> list[Path]:
        return self._folder.journals()

    def _move_strangers_aside(self) -> None:
        """Leave only part files that belong to this prediction."""
        for part in self._parts():
            lines = Journal.read(part)
            if not lines:  # killed before its first line was whole
                part.unlink()
            elif lines[0] != self._identity:
                found = lines[0] if isinstance(lines[0], dict) else {}
                other = [
                    f"{name} ({found.get(name)} there, {value} here)"
                    for name, value in self._identity.items()
                    if found.get(name) != value
                ]
                print(
                    f"{part} holds predictions that were made with another {', '.join(other)}; it was moved to "
                    f"{rename_existing(part)} and is not used"
                )

    def _malformed(self, rows: int) -> dict[str, Any]:
        """Count the texts without a verdict, and show a few."""
        found = [
            (row, text) for row, text in self._read_parts("texts") if find_verdict(text) is None
        ]
        examples = [{"row": row, "text": text} for row, text in sorted(found)[:EXAMPLES]]
        return {"rows": len(found), "share": len(found) / rows, "examples": examples}

    def _read_parts(self, column: str) -> Iterator[tuple[int, Any]]:
        """Yield each predicted row with its entry of `column`."""
        for part in self._parts():
            for batch in Journal.read(part)[1:]:
                yield from zip(batch["rows"], batch[column], strict=True)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise ValueError(
            f"no adapter to predict with: {path} cannot be read ({error.strerror}). Finish the phase that makes it, "
            "or name another adapter's folder as model.init_from"
        ) from error
