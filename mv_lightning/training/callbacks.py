"""What is seen while a run goes on, and what it leaves behind."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from mv_lightning.artifacts.calibrations import save_calibration
from mv_lightning.model.adapters import flops_per_token
from mv_lightning.model.gpus import peak_tflops
from mv_lightning.schema import Batch


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


def align_steps(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Tell the loggers of `trainer` how many steps the phases before took."""
    for logger in trainer.loggers:
        if isinstance(logger, PhaseLogger):
            logger.step_offset = int(module.steps_before)


class PhaseProgress(TQDMProgressBar):
    """A bar whose end is the phase's end: `trainer.max_steps` may stop it long before the epoch is over."""

    @property
    def total_train_batches(self) -> int | float:
        """Micro-batches of this epoch that will be trained on."""
        trainer, batches = self.trainer, super().total_train_batches
        if trainer.max_steps < 0:
            return batches
        return min(batches, trainer.max_steps * trainer.accumulate_grad_batches)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Loss and accuracy; Lightning would add a number for the logger's folder."""
        return {
            name: value
            for name, value in super().get_metrics(trainer, pl_module).items()
            if name != "v_num"
        }


class BestAdapter(pl.Callback):
    """Keeps the adapter of the lowest validation loss.

    The loss and not the accuracy: on 200 rows the accuracy moves by 2.5 points for no reason.
    """

    def __init__(self, folder: Path) -> None:
        """Keep where to.

        Args:
            folder: The PEFT folder.
        """
        self._folder = folder
        self._loss = float("inf")
        self.step = 0
        """Optimizer step of the best adapter; 0 where there is none."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare, and save if it is the best so far."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if (loss := float(trainer.callback_metrics["val/loss"])) < self._loss:
            self._loss, self.step = loss, trainer.global_step
            if trainer.is_global_zero:
                pl_module.save_adapter(self._folder, pl_module.card())
                save_calibration(self._folder, pl_module.evaluation, trainer.datamodule.train_share)

    def state_dict(self) -> dict[str, Any]:
        """Return what is to be beaten."""
        return {"loss": self._loss, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing."""
        self._loss, self.step = state_dict["loss"], state_dict["step"]


class MemoryProbe(pl.Callback):
    """Takes the longest micro-batch forward and back before the first step: too small a GPU shows at once.

    Weights, gradients and random generators are afterwards what they were. On a CPU memory is seldom what is short, and
    time is, so nothing is done there.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Probe on a GPU, and say what it took."""
        if pl_module.device.type == "cuda":
            batch = probe_memory(trainer, pl_module)
            print(
                f"the longest micro-batch ({len(batch.rows_B)} rows, {len(batch.ids_T):,} packed tokens) takes "
                f"{peak_memory_gb(pl_module.device):.1f} GB"
            )


def probe_memory(trainer: pl.Trainer, module: pl.LightningModule) -> Batch:
    """Take the longest micro-batch of the run forward and back; return it.

    Args:
        trainer: Of the run, at the start of training.
        module: The model, with its adapters.

    Raises:
        ValueError: The memory is too small.
    """
    batch = trainer.datamodule.longest_training_batch()
    devices = [module.device] if module.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            with trainer.precision_plugin.train_step_context():
                _, loss_B = module.losses(batch.to(module.device))
            loss_B.mean().backward()
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"the longest micro-batch ({len(batch.rows_B)} rows, {len(batch.ids_T):,} packed tokens) does not fit "
                f"into the memory: {str(error).splitlines()[0]} Set model.base.gradient_checkpointing true or to fewer "
                "tokens (`estimate` computes what fits), lower data.batch_size and raise "
                "trainer.accumulate_grad_batches by as much, or shorten data.max_length"
            ) from error
        finally:
            module.zero_grad()
    return batch


class ThroughputMonitor(pl.Callback):
    """Logs speed and memory at every optimizer step, and counts what the phase cost."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.seconds = 0.0
        """Time in training and validation, over all starts of the phase."""
        self.rows = 0
        """Rows trained on."""
        self.tokens = 0
        """Real tokens trained on: what the rows hold without sharing their prefix."""
        self._since: float | None = None
        self._step_start = 0.0
        self._step_rows = 0
        self._step_tokens = 0
        self._step_packed = 0
        self._flops_per_token = 0
        self._peak_tflops: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        align_steps(trainer, pl_module)
        self._since = time.perf_counter()
        self._flops_per_token, self._peak_tflops = (
            flops_per_token(pl_module.adapted),
            peak_tflops(pl_module.device),
        )
        if trainer.is_global_zero:
            known = (
                f", speed/mfu their share of {self._peak_tflops} a second and card"
                if self._peak_tflops
                else ""
            )
            print(
                f"speed/tflops counts {self._flops_per_token / 1e9:.2f} GFLOP a packed token: 4 a weight of a "
                f"projection and 6 a weight of an adapter{known}"
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Start the step's clock."""
        if not self._step_rows:
            self._step_start = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Log the step if this was its last micro-batch."""
        if batch.rows_B[0] >= 0:  # else it stands in for rows that another process has
            self._step_rows += len(batch.rows_B)
            self._step_tokens += batch.tokens
            self._step_packed += len(batch.ids_T)
        if trainer.fit_loop._should_accumulate():
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        elapsed = time.perf_counter() - self._step_start
        counts = torch.tensor(
            [self._step_rows, self._step_tokens, self._step_packed], device=pl_module.device
        )
        rows, tokens, packed = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        tflops = packed * self._flops_per_token / elapsed / 1e12
        values = {
            "speed/rows_per_s": rows / elapsed,
            "speed/tokens_per_s": tokens / elapsed,
            "speed/tflops": tflops,
            "memory/peak_gb": peak_memory_gb(pl_module.device),
        }
        if self._peak_tflops:
            values["speed/mfu"] = tflops / self._peak_tflops / trainer.world_size
        pl_module.log_dict(values)
        self.rows += rows
        self.tokens += tokens
        self._step_rows = self._step_tokens = self._step_packed = 0

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self.seconds, self._since = self._seconds_so_far(), None

    def state_dict(self) -> dict[str, Any]:
        """Return what has been counted."""
        return {"seconds": self._seconds_so_far(), "rows": self.rows, "tokens": self.tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.seconds, self.rows, self.tokens = (
            state_dict[name] for name in ("seconds", "rows", "tokens")
        )

    def _seconds_so_far(self) -> float:
        return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)
