"""The package's training as its users run it, on the rows and by the clock of a comparison."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np

from benchmarks.measure import SEED, WORK, Clock, Cost
from mv_lightning.data.batching import epoch_order, pack
from mv_lightning.data.prompts import VERDICTS
from mv_lightning.data.sources import load_source
from mv_lightning.data.splits import SplitPlan
from mv_lightning.model import adapters, base
from mv_lightning.model.bundled import BUNDLED as BUNDLED_NAME
from mv_lightning.model.optim import OptimSettings
from mv_lightning.model.precision import PRECISION
from mv_lightning.schema import Batch
from mv_lightning.training.checkpoint import AtomicCheckpointIO
from mv_lightning.training.datamodule import VerdictDataModule
from mv_lightning.training.module import VerdictModule

STEP_ROWS, RANK, PROMPT = 8, 32, "detailed"
MODEL = "SmolLM2-135M, NF4"
BUNDLED = base.BaseSettings(name=BUNDLED_NAME, gradient_checkpointing=False)
PRACTICE = OptimSettings(lr=1e-3, warmup_steps=3)
"""For a few steps that shall teach something; a step's cost does not depend on it."""


class Training:
    """A training driven by Lightning that lets others have their turn between its steps."""

    def __init__(
        self,
        source: str,
        steps: int,
        settings: base.BaseSettings = BUNDLED,
        rank: int = RANK,
        prompt: str = PROMPT,
    ) -> None:
        """Settle what is trained; nothing is read before `run`.

        Args:
            source: Rows, as `data.source`.
            steps: Optimizer steps, of one micro-batch of 8 rows each.
            settings: Base model.
            rank: Of the adapters.
            prompt: Prompt variant.
        """
        self.source = source
        plan = SplitPlan(phases=1, rows=STEP_ROWS * steps, val_fraction=0, test_rows=2, seed=SEED)
        self.data = VerdictDataModule(source, splits=plan, prompt=prompt, batch_size=STEP_ROWS)
        self.module = VerdictModule(settings, adapters.LoraSettings(r=rank, alpha=rank), PRACTICE)

    def run(
        self, steps: int, between: Callable[[int, Cost], None], accelerator: str = "cpu"
    ) -> pl.Trainer:
        """Train.

        Args:
            steps: Optimizer steps.
            between: Called after each with its number and its cost, which includes reading and packing its rows.
            accelerator: Of Lightning's names.
        """
        pl.seed_everything(SEED, verbose=False)
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=1,
            precision=PRECISION,
            default_root_dir=WORK,
            max_steps=steps,
            gradient_clip_val=1.0,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=[AtomicCheckpointIO()],
            callbacks=[_Turns(between)],
        )
        trainer.fit(self.module, self.data)
        return trainer

    @cached_property
    def order(self) -> np.ndarray:
        """Positions of the shard's rows in the order of training; after `run` has begun."""
        return epoch_order(
            len(self.data.encoded["train"]), self.data.plan.seed, self.data.phase, epoch=0
        )

    def batch(self, step: int) -> Batch:
        """The packed rows of a step; after `run` has begun."""
        return pack(
            self.data.encoded["train"],
            self.order[step * STEP_ROWS : (step + 1) * STEP_ROWS],
            STEP_ROWS,
        )

    def write_texts(self, path: Path) -> None:
        """Write the rows in the order of training, as prompt and completion; after `run` has begun."""
        encoded, table, prompt = (
            self.data.encoded["train"],
            load_source(self.source).table,
            self.data.prompt,
        )
        with path.open("w", encoding="utf-8") as lines:
            for index in self.order.tolist():
                body = prompt.body.format_map(table[int(encoded.rows_N[index])])
                verdict = VERDICTS[bool(encoded.labels_N[index])]
                text = {"prompt": prompt.instruction + body + prompt.cue, "completion": verdict}
                lines.write(json.dumps(text) + "\n")


class _Turns(pl.Callback):
    """A step's clock runs from the end of the step before, so that nothing of the loop goes uncounted."""

    def __init__(self, between: Callable[[int, Cost], None]) -> None:
        self._between = between

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the first step."""
        self._clock = Clock()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Read the clock, give the others their turn, and start it again."""
        cost = self._clock.read()
        self._between(
            trainer.global_step - 1, {**cost, "loss": float(trainer.callback_metrics["train/loss"])}
        )
        self._clock = Clock()


def practised_adapter(prompt: str, steps: int) -> Path:
    """Return the folder of an adapter that practised on generated rows, so that its predictions mean something.

    Args:
        prompt: Prompt variant.
        steps: Optimizer steps that it is trained for, unless an earlier call has done so.
    """
    folder = WORK / f"adapter_{prompt}_{steps}"
    if not folder.is_dir():
        training = Training(f"synthetic:{2 * STEP_ROWS * steps + 100}", steps, prompt=prompt)
        training.run(
            steps,
            lambda step, cost: print(f"practice step {step}: loss {cost['loss']:.3f}", flush=True),
        )
        training.module.save_adapter(folder, training.module.card())
    return folder
