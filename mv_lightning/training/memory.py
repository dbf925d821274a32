"""The memory that training takes: its peak so far, and a check of the largest micro-batch before
the first step."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

import lightning.pytorch as pl
import torch

from mv_lightning.formatting import first_line
from mv_lightning.model.optim import future_state_bytes
from mv_lightning.schema import Batch


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak memory so far in GB (10^9 bytes): of the GPU if `device` is one, else of the
    process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def reset_peak_memory(device: torch.device) -> None:
    """Make `peak_memory_gb` count from now on.

    The peak of a process can only be reset on Linux; elsewhere it stays that since its start.

    Args:
        device: A GPU, or the CPU for the memory of the process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5)


class MemoryProbe(pl.Callback):
    """Runs the longest micro-batch forward and backward before the first step, so that too small a
    GPU fails at once.

    Weights, gradients and random generators are restored. On a CPU nothing is done: memory is
    seldom short there, and time is.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Probe on a GPU, and print the peak."""
        if pl_module.device.type == "cuda":
            state = future_state_bytes(trainer.optimizers[0], pl_module.optim_settings)
            batch = probe_memory(trainer, pl_module, state)
            print(
                f"the longest micro-batch ({_describe(batch)}) takes "
                f"{peak_memory_gb(pl_module.device):.1f} GB"
            )


def probe_memory(trainer: pl.Trainer, module: pl.LightningModule, state_bytes: int = 0) -> Batch:
    """Run the longest micro-batch of the run forward and backward, and return it.

    Args:
        trainer: The trainer at the start of training.
        module: The model with its adapters.
        state_bytes: Bytes that the optimizer will allocate in its first step; as many are held.

    Raises:
        ValueError: The memory is too small.
    """
    batch: Batch = trainer.datamodule.longest_training_batch()
    devices = [module.device] if module.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            held = torch.empty(state_bytes, dtype=torch.uint8, device=module.device)
            with trainer.precision_plugin.train_step_context():
                losses = module.losses(batch.to(module.device))
            losses.total_B.mean().backward()
            del held
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"the longest micro-batch ({_describe(batch)}) does not fit into the memory: "
                f"{first_line(error)} Set model.base.gradient_checkpointing to true or to "
                "fewer tokens (`estimate` computes what fits), lower data.batch_size and raise "
                "trainer.accumulate_grad_batches by the same factor, or lower data.max_length"
            ) from error
        finally:
            module.zero_grad()
    return batch


def _describe(batch: Batch) -> str:
    return f"{len(batch.rows_B)} rows, {len(batch.ids_T):,} packed tokens"
