"""Speed and memory of every optimizer step, and the cost of a phase."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import torch

from mv_lightning.model.adapters import flops_per_token
from mv_lightning.model.gpus import peak_tflops
from mv_lightning.schema import Batch
from mv_lightning.training.memory import peak_memory_gb


class ThroughputMonitor(pl.Callback):
    """Logs speed and memory at every optimizer step, and adds up what the phase has cost over all
    its starts."""

    def __init__(self) -> None:
        """Start at zero."""
        self.seconds = 0.0
        """Time in training and validation."""
        self.rows = 0
        """Rows trained on."""
        self.tokens = 0
        """Tokens trained on, counted for each row: shared prefixes count once for every row that
        has them."""
        self._since: float | None = None
        self._step_start = 0.0
        self._step_rows = 0
        self._step_tokens = 0
        self._step_packed = 0
        self._flops_per_token = 0
        self._peak_tflops: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, once the device has nothing left to do."""
        self._flops_per_token = flops_per_token(pl_module.adapted)
        self._peak_tflops = peak_tflops(pl_module.device)
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._since = time.perf_counter()

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
        if batch.rows_B[0] >= 0:  # a dummy batch stands for rows of another process
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
        most = counts[2].clone()
        rows, tokens, packed = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        tflops = packed * self._flops_per_token / elapsed / 1e12
        values = {
            "speed/rows_per_s": rows / elapsed,
            "speed/tokens_per_s": tokens / elapsed,
            "speed/tflops": tflops,
            "memory/peak_gb": peak_memory_gb(pl_module.device),
        }
        if trainer.world_size > 1:
            # The others wait for the process with the most tokens.
            slowest = trainer.strategy.reduce(most, reduce_op="max").item()
            values["speed/imbalance"] = slowest * trainer.world_size / packed
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
        """Return the sums so far."""
        return {"seconds": self._seconds_so_far(), "rows": self.rows, "tokens": self.tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the sums."""
        self.seconds, self.rows, self.tokens = (
            state_dict[name] for name in ("seconds", "rows", "tokens")
        )

    def _seconds_so_far(self) -> float:
        return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)
