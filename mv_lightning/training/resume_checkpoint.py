"""Saves checkpoints from which a run resumes as if it had never been interrupted."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from datetime import timedelta
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Timer

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.atomic import free_bytes
from mv_lightning.model.adapters import trained_parameters
from mv_lightning.model.optim import state_bytes
from mv_lightning.training.checkpoint_files import checkpoints
from mv_lightning.training.random_state import get_random_state, set_random_state
from mv_lightning.training.settings import RunSettings
from mv_lightning.training.step_rows import check_step_rows, move_position, stored_step_rows
from mv_lightning.training.stopping import StopReason, TrainingStopped, stop_reason
from mv_lightning.versioning import FORMAT_VERSION, VERSION_KEY

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Ctrl-C, and what a cluster sends before it ends a job (SLURM: `--signal=TERM@120`)."""

MaxTime = str | timedelta | dict[str, int] | None
"""As `trainer.max_time`."""


class ResumeCheckpoint(pl.Callback):
    """Saves the whole state of the run every few optimizer steps, and restores what Lightning does
    not.

    It saves at the start of the micro-batch that follows an optimizer step. At that point the step
    is complete, a validation that was due is complete, and no gradient is partly accumulated. None
    of this holds at the end of a micro-batch or when a signal arrives. A signal to stop, and the
    end of `trainer.max_time`, therefore take effect at the next such point.
    """

    def __init__(
        self,
        folder: PhaseFolder,
        run: RunSettings,
        settings: Mapping[str, Any],
        steps_before: int,
        max_time: MaxTime = None,
    ) -> None:
        """Start without a checkpoint.

        Args:
            folder: The phase.
            run: How often to save, and how many checkpoints to keep.
            settings: Option names and values that a resumed run must not change.
            steps_before: Optimizer steps of the phases before.
            max_time: Stop after this time, counted from each start of the phase.
        """
        self._folder = folder
        self._run = run
        self._steps_before = steps_before
        self._stored = {"settings": dict(settings), "steps_before": steps_before}
        self._timer = None if max_time is None else Timer(max_time)
        self._saved_step = 0
        self._reason: StopReason | None = None
        self._restored: dict[str, Any] | None = None
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the disk before time is spent, and listen for signals.

        Raises:
            ValueError: The disk has too little space for the checkpoints.
        """
        for leftover in self._folder.checkpoints.glob(".*.tmp"):  # of a kill during a write
            leftover.unlink()
        self._handlers = {number: signal.signal(number, self._remember) for number in STOP_SIGNALS}
        if self._timer is not None:
            self._timer.on_train_start(trainer, pl_module)
        self._check_disk(trainer, pl_module)
        self._set_logged_step(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore after a resume. At the boundary of an optimizer step, save if due, and stop if
        asked to."""
        step = trainer.global_step
        if self._restored is not None:
            set_random_state(self._restored, pl_module.device)
            self._restored = None
            self._saved_step = step
            # Lightning counts the first step after a resume twice for its loggers.
            self._set_logged_step(trainer)
        if batch_idx % trainer.accumulate_grad_batches:
            return
        reason = self._requested_stop(trainer)
        if step > self._saved_step and (reason or step % self._run.save_every == 0):
            self._save(trainer, reason)
        if reason:
            raise TrainingStopped(reason, step, self._signal)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the final state: what follows, such as the last validation, may be interrupted
        too."""
        reason = stop_reason(trainer)
        # Another callback may have stopped training between two micro-batches of one step.
        complete = not trainer.fit_loop._should_accumulate()
        if complete and trainer.global_step > self._saved_step:
            self._save(trainer, reason)
        requested = self._requested_stop(trainer)
        if requested:
            raise TrainingStopped(requested, trainer.global_step, self._signal)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the signal handlers."""
        self._restore_handlers()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Restore the signal handlers: Lightning does not call `teardown` after an exception."""
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            # Unless there was an exception, Lightning has restored what was there before its own.
            if signal.getsignal(number) == self._remember:
                signal.signal(number, handler)
        self._handlers = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the settings, the reason of the stop and the random generators of all processes."""
        checkpoint |= {VERSION_KEY: FORMAT_VERSION, "stop_reason": self._reason, **self._stored}
        # The micro-batch at whose start this is saved is not a part of the state; if it counted,
        # every later validation would come one micro-batch late.
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for count in (progress["total"], progress["current"]):
            count["ready"] = count["completed"]
        states: list[Any] = [get_random_state(pl_module.device)]
        if trainer.world_size > 1:
            states *= trainer.world_size
            torch.distributed.all_gather_object(states, states[0])
        checkpoint["random"] = states

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Find the position in today's micro-batches, and keep the random state until the first
        of them: setting up draws random numbers.

        A process that the interrupted run did not have goes on with its own generators.

        Raises:
            ValueError: The rows of an optimizer step would change.
        """
        stored, step = stored_step_rows(checkpoint), checkpoint["global_step"]
        check_step_rows(trainer, stored)
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        move_position(progress, stored, step, trainer)
        is_new = trainer.global_rank >= stored.processes
        own = get_random_state(trainer.strategy.root_device) if is_new else None
        self._restored = own or checkpoint["random"][trainer.global_rank]
        self._saved_step = step

    def _set_logged_step(self, trainer: pl.Trainer) -> None:
        """Make all loggers count the steps over all phases."""
        step = self._steps_before + trainer.global_step
        trainer.fit_loop.epoch_loop._batches_that_stepped = step

    def _check_disk(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        folder, keep = self._folder.checkpoints, self._run.keep
        size = checkpoint_bytes(module)
        if trainer.is_global_zero:
            print(
                f"checkpoints: about {size / 1e9:.2f} GB each in {folder}, every "
                f"{self._run.save_every} steps"
            )
        # A new checkpoint is written before the oldest is deleted, and the phase leaves two
        # adapters.
        adapters = 2 * sum(p.nbytes for p in trained_parameters(module.adapted).values())
        present = sum(path.stat().st_size for path in checkpoints(folder))
        needed, free = size * (keep + 1) + adapters - present, free_bytes(folder)
        if free < needed:
            raise ValueError(
                f"{folder} has {free / 1e9:.2f} GB free, but the phase needs {needed / 1e9:.2f} GB "
                f"for {keep + 1} checkpoints and two adapters. Free some space, set --run.dir to "
                "another disk, or keep fewer checkpoints with --run.keep"
            )

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C stops at once
        self._signal = number
        name = signal.Signals(number).name
        print(
            f"\n{name}: stopping after this optimizer step; Ctrl-C again stops at once", flush=True
        )

    def _requested_stop(self, trainer: pl.Trainer) -> StopReason | None:
        """Return why training must stop here, in agreement with all processes."""
        if _any_process(trainer, self._signal is not None):
            return "interrupted"
        if self._timer is None:
            return None
        seconds_left = self._timer.time_remaining()
        expired = seconds_left is not None and seconds_left <= 0
        return "time" if _any_process(trainer, expired) else None

    def _save(self, trainer: pl.Trainer, reason: StopReason | None) -> None:
        self._reason = reason
        step = trainer.global_step
        trainer.save_checkpoint(self._folder.checkpoint(step), weights_only=False)
        self._saved_step = step
        if trainer.is_global_zero:
            for old in checkpoints(self._folder.checkpoints)[self._run.keep :]:
                old.unlink()


def checkpoint_bytes(module: pl.LightningModule) -> int:
    """Return the size of a checkpoint: the adapters, and what the optimizer keeps for them."""
    return sum(
        parameter.nbytes + state_bytes(module.optim_settings, parameter.numel())
        for parameter in trained_parameters(module.adapted).values()
    )


def _any_process(trainer: pl.Trainer, flag: bool) -> bool:
    """Processes receive a signal at different times, and must stop at the same step."""
    if trainer.world_size == 1:
        return flag
    return bool(trainer.strategy.reduce_boolean_decision(flag, all=False))
