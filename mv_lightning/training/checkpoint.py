"""Checkpoints from which a run goes on as if it had never stopped."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from mv_lightning.atomic import atomic_file

LAST = "last.ckpt"
"""The newest checkpoint of a phase, in the phase's folder."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, syncs it and renames it.

    Lightning's own way goes through the system's temporary folder, which is often small and another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`, whole or not at all."""
        with atomic_file(Path(path)) as draft:
            torch.save(checkpoint, draft)

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: Any = True) -> dict[str, Any]:
        """Read a checkpoint without running anything that it may hold.

        Args:
            path: A local file.
            map_location: As in `torch.load`.
            weights_only: Not looked at: a pickle from elsewhere is never trusted.

        Raises:
            ValueError: The file is not a checkpoint, holds more than tensors and plain values, or is damaged.
        """
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
            _ = checkpoint["card"]
        except Exception as error:  # what a damaged or foreign file raises has no common class
            raise ValueError(
                f"{path} is not a checkpoint of mv_lightning, or it is damaged ({type(error).__name__}). Only "
                "tensors and plain values are read, and nothing in the file was run. Name another checkpoint, or start "
                "the phase afresh with --run.fresh true"
            ) from error
        return checkpoint


class ResumeCheckpoint(pl.Callback):
    """Saves the whole state of the run every few optimizer steps, and restores what Lightning does not.

    Saving happens at the start of the micro-batch that follows an optimizer step. At that point the step is over, a
    validation that was due is over, and no gradient is half accumulated; a save at the end of a micro-batch or on a
    signal has none of these.
    """

    def __init__(self, folder: Path, every_steps: int) -> None:
        """Keep where and how often.

        Args:
            folder: The phase's folder.
            every_steps: Optimizer steps between checkpoints.
        """
        self._path = folder / LAST
        self._every_steps = every_steps
        self._saved_step = 0
        self._restored: dict[str, Any] | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore after a resume; save at the boundary of an optimizer step that is due."""
        step = trainer.global_step
        if self._restored is not None:
            _set_random_state(self._restored)
            self._restored = None
            self._saved_step = step
            # Lightning counts the first step after a resume twice for its loggers; the optimizer's count is right.
            trainer.fit_loop.epoch_loop._batches_that_stepped = step
        at_boundary = batch_idx % trainer.accumulate_grad_batches == 0
        if at_boundary and step > self._saved_step and step % self._every_steps == 0:
            trainer.save_checkpoint(self._path)
            self._saved_step = step

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the random generators."""
        return _random_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the first micro-batch: setting up draws random numbers."""
        self._restored = state_dict


def _random_state() -> dict[str, Any]:
    """Everything as tensors and plain values: checkpoints are loaded with `weights_only`."""
    state: Any = np.random.get_state()  # noqa: NPY002  the legacy stream is the one to be kept
    name, keys, *rest = state
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
