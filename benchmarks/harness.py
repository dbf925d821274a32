"""Training through Lightning as the commands run it, measured step by step."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from benchmarks.baselines import write_texts
from benchmarks.measure import WORK, Clock, Cost
from mv_lightning.data.batching import epoch_order, pack
from mv_lightning.data.sources import load_source
from mv_lightning.data.splits import SplitPlan, plan_splits
from mv_lightning.model import adapters, base
from mv_lightning.model.bundled import BUNDLED as BUNDLED_NAME
from mv_lightning.model.optim import OptimSettings
from mv_lightning.model.precision import default_dtype, default_precision
from mv_lightning.schema import DEFAULT_SEED, Batch
from mv_lightning.training.checkpoint_files import AtomicCheckpointIO
from mv_lightning.training.datamodule import VerdictDataModule
from mv_lightning.training.module import VerdictModule

STEP_ROWS, RANK, PROMPT = 8, 32, "detailed"
MODEL = "SmolLM2-135M, NF4"
DTYPE = default_dtype(torch.device("cpu"))
"""Of the base, on both sides of a comparison on the CPU: bf16 where the CPU computes in it."""
BUNDLED = base.BaseSettings(name=BUNDLED_NAME, gradient_checkpointing=False)
SHORT_RUN_OPTIM = OptimSettings(lr=1e-3, warmup_steps=3)
"""A few steps must change the adapter visibly; the cost of a step does not depend on it."""


class Training:
    """A training driven by Lightning that calls back between its steps."""

    def __init__(
        self,
        source: str,
        steps: int,
        settings: base.BaseSettings = BUNDLED,
        rank: int = RANK,
        prompt: str = PROMPT,
    ) -> None:
        """Define the training; nothing is read before `run`.

        Args:
            source: Rows, as `data.source`.
            steps: Optimizer steps, each of one micro-batch of 8 rows.
            settings: Base model.
            rank: LoRA rank.
            prompt: Prompt variant.
        """
        self.source = source
        plan = SplitPlan(
            phases=1, rows=STEP_ROWS * steps, val_fraction=0, test_rows=2, seed=DEFAULT_SEED
        )
        self.data = VerdictDataModule(
            source,
            splits=plan,
            prompt=prompt,
            batch_size=STEP_ROWS,
            base=settings.name,
            run_dir=str(WORK),
        )
        self.module = VerdictModule(
            settings,
            adapters.LoraSettings(r=rank, alpha=rank),
            SHORT_RUN_OPTIM,
            prompt=prompt,
            max_length=self.data.max_length,
        )

    def run(
        self,
        steps: int,
        after_step: Callable[[int, Cost], None],
        accelerator: str = "cpu",
        at_end: Callable[[pl.Trainer], None] | None = None,
    ) -> None:
        """Train.

        Args:
            steps: Optimizer steps.
            after_step: Called after each step with its number and its cost, which includes
                reading and packing its rows.
            accelerator: Name of a Lightning accelerator.
            at_end: Called with the trainer after the last step. Afterwards Lightning moves the
                model and the optimizer to the CPU.
        """
        pl.seed_everything(DEFAULT_SEED, verbose=False)
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=1,
            precision=default_precision(torch.device("cpu" if accelerator == "cpu" else "cuda")),
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
            callbacks=[_StepTimer(after_step, at_end)],
        )
        trainer.fit(self.module, self.data)

    @cached_property
    def order(self) -> np.ndarray:
        """Positions of the shard's rows in training order."""
        return epoch_order(self.data.plan.rows, self.data.plan.seed, self.data.phase, epoch=0)

    def batch(self, step: int) -> Batch:
        """Return the packed rows of a step; available once `run` has begun."""
        return pack(
            self.data.splits["train"].encoded,
            self.order[step * STEP_ROWS : (step + 1) * STEP_ROWS],
            STEP_ROWS,
        )

    def write_texts(self, path: Path) -> None:
        """Write the rows in the order of training, as prompt and completion."""
        source = load_source(self.source)
        assert source.labels_N is not None
        shard_N = plan_splits(source.labels_N, None, self.data.plan).train[self.data.phase - 1]
        write_texts(path, self.data.prompt, source.table, source.labels_N, shard_N[self.order])


class _StepTimer(pl.Callback):
    """Times each step from the end of the one before, so that the loop's own work is included."""

    def __init__(
        self,
        after_step: Callable[[int, Cost], None],
        at_end: Callable[[pl.Trainer], None] | None,
    ) -> None:
        self._after_step, self._at_end = after_step, at_end

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the first step."""
        self._clock = Clock()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Read the clock, call back, and start the clock again."""
        loss = float(trainer.callback_metrics["train/loss"])
        self._after_step(trainer.global_step - 1, {**self._clock.read(), "loss": loss})
        self._clock = Clock()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Call back while everything is where it was trained."""
        if self._at_end:
            self._at_end(trainer)


def short_run_adapter(
    prompt: str, steps: int, settings: base.BaseSettings = BUNDLED, work: Path = WORK
) -> Path:
    """Return the folder of an adapter trained for a few steps, so that its predictions vary.

    Args:
        prompt: Prompt variant.
        steps: Optimizer steps on synthetic rows. The folder of an earlier call is used again.
        settings: Base model.
        work: Where the folder is.
    """
    folder = work / f"adapter_{prompt}_{steps}"
    if not folder.is_dir():
        rows = 2 * STEP_ROWS * steps + 100
        training = Training(f"synthetic:{rows}:4", steps, settings, prompt=prompt)
        training.run(
            steps, lambda step, cost: print(f"step {step}: loss {cost['loss']:.3f}", flush=True)
        )
        training.module.save_adapter(folder, steps)
    return folder
