"""Checkpoints from which a run goes on as if it had never stopped."""

from __future__ import annotations

import random
import signal
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from mv_lightning.atomic import atomic_file, free_bytes
from mv_lightning.model.adapters import trained_parameters
from mv_lightning.model.optim import state_bytes

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Ctrl-C, and what a cluster sends before it takes the machine away (SLURM: `--signal=TERM@120`)."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, syncs it and renames it.

    Lightning's own way goes through the system's temporary folder, which is often small and another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write `checkpoint` to `path`, whole or not at all.

        Raises:
            ValueError: It cannot be written, as on a full disk; older checkpoints stay as they are.
        """
        path = Path(path)
        try:
            with atomic_file(path) as tmp_path:
                torch.save(checkpoint, tmp_path)
        except (OSError, RuntimeError) as error:  # torch's zip writer raises the latter
            kept = checkpoints(path.parent)
            raise ValueError(
                f"the checkpoint {path} could not be written ({str(error).splitlines()[0]}); "
                f"{free_bytes(path) / 1e9:.2f} GB are free. Make room and give the same command "
                f"again: it goes on from {kept[0] if kept else 'the start, there is no checkpoint yet'}"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: Any = True
    ) -> dict[str, Any]:
        """Read a checkpoint; whatever is asked, a pickle from elsewhere is never trusted, see `read_checkpoint`."""
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint without running anything that it may hold.

    Args:
        path: A local file.
        map_location: As in `torch.load`.
        mmap: Leave the tensors on the disk until they are looked at.

    Raises:
        ValueError: The file is not a checkpoint, holds more than tensors and plain values, or is damaged.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(
            path, map_location=map_location, weights_only=True, mmap=mmap
        )
        _ = checkpoint["card"], checkpoint["settings"]
    except Exception as error:  # what a damaged or foreign file raises has no common class
        raise ValueError(
            f"{path} is not a checkpoint of mv_lightning, or it is damaged ({type(error).__name__}). Only tensors and "
            "plain values are read, and nothing in the file was run. Name another checkpoint, or start the phase over "
            "with --fresh"
        ) from error
    return checkpoint


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, the newest step first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def find_corruption(path: Path) -> str | None:
    """Say what is wrong with a checkpoint file, or None: every record is read and compared with its checksum."""
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        return str(error)
    return broken and f"the record {broken} does not match its checksum"


def latest_valid(folder: Path) -> Path | None:
    """Return the newest checkpoint that is not damaged, with a warning for each that is; None if there is none at all.

    Raises:
        ValueError: There are checkpoints, and all are damaged.
    """
    found = checkpoints(folder)
    for path in found:
        wrong = find_corruption(path)
        if wrong is None:
            return path
        print(f"warning: {path} is damaged ({wrong}); the checkpoint before it is tried")
    if found:
        raise ValueError(
            f"all checkpoints in {folder} are damaged; start the phase over with --fresh"
        )
    return None


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to resume under settings that would make another run of it.

    Args:
        path: A checkpoint.
        settings: Option names and their values now.

    Raises:
        ValueError: The file is no checkpoint of this program, or settings differ; each is named with both values.
    """
    saved = read_checkpoint(path, mmap=True)["settings"]
    changed = [
        f"{name} is {now!r}, was {saved.get(name)!r}"
        for name, now in settings.items()
        if saved.get(name) != now
    ]
    if changed:
        raise ValueError(
            f"{path} cannot be resumed under other settings: {'; '.join(changed)}. Put them back, or start the phase "
            "over with --fresh (what is there is moved aside)"
        )


class ResumeCheckpoint(pl.Callback):
    """Saves the whole state of the run every few optimizer steps, and restores what Lightning does not.

    Saving happens at the start of the micro-batch that follows an optimizer step. At that point the step is over, a
    validation that was due is over, and no gradient is half accumulated; a save at the end of a micro-batch or on a
    signal has none of these. A signal to stop is therefore remembered until that point.
    """

    def __init__(
        self, folder: Path, every_steps: int, keep: int, settings: Mapping[str, Any]
    ) -> None:
        """Keep where, how often, how many, and what a resumed run must not change.

        Args:
            folder: Where the checkpoints go.
            every_steps: Optimizer steps between checkpoints.
            keep: Newest checkpoints that stay.
            settings: Option names and values, see `check_settings`.
        """
        self._folder = folder
        self._every_steps = every_steps
        self._keep = keep
        self._settings = dict(settings)
        self._saved_step = 0
        self._restored: dict[str, Any] | None = None
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the disk before time is spent, and listen for signals.

        Raises:
            ValueError: The disk has no room for the checkpoints.
        """
        for tmp_path in self._folder.glob(".*.tmp"):  # a kill in the middle of a write
            tmp_path.unlink()
        self._handlers = {number: signal.signal(number, self._remember) for number in STOP_SIGNALS}
        size = checkpoint_bytes(pl_module)
        # The new one is written before the oldest goes, and the phase leaves two adapters beside them.
        needed = (
            size * (self._keep + 1)
            + 2 * 4 * _elements(pl_module)
            - sum(f.stat().st_size for f in self._found())
        )
        free = free_bytes(self._folder)
        if trainer.is_global_zero:
            print(
                f"checkpoints: about {size / 1e9:.2f} GB each in {self._folder}, every {self._every_steps} steps"
            )
        if free < needed:
            raise ValueError(
                f"{self._folder} has {free / 1e9:.2f} GB free, and the phase needs {needed / 1e9:.2f} GB for "
                f"{self._keep + 1} checkpoints and two adapters; make room, set --run.dir to another disk, or keep "
                "fewer with --run.keep"
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore after a resume; save at the boundary of an optimizer step that is due; stop there if asked to."""
        step = trainer.global_step
        if self._restored is not None:
            _set_random_state(self._restored)
            self._restored = None
            self._saved_step = step
            # Lightning counts the first step after a resume twice for its loggers; the optimizer's count is right.
            trainer.fit_loop.epoch_loop._batches_that_stepped = step
        if batch_idx % trainer.accumulate_grad_batches:
            return
        stop = self._asked_to_stop(trainer)
        if step > self._saved_step and (stop or step % self._every_steps == 0):
            self._save(trainer, step)
        if stop:
            self._stop(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the final state: what follows, such as the last validation, can then be interrupted too."""
        if trainer.global_step > self._saved_step:
            self._save(trainer, trainer.global_step)
        if self._asked_to_stop(trainer):
            self._stop(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write down the settings and every process's random generators."""
        checkpoint["settings"] = self._settings
        # The micro-batch at whose start this is saved is not a part of the state; counted in, it would shift every
        # later validation by one.
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for count in (progress["total"], progress["current"]):
            count["ready"] = count["completed"]
        states: list[Any] = [_random_state()]
        if trainer.world_size > 1:
            states *= trainer.world_size
            torch.distributed.all_gather_object(states, states[0])
        checkpoint["random"] = states

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the state until the first micro-batch: setting up draws random numbers."""
        self._restored = checkpoint["random"][trainer.global_rank]
        self._saved_step = checkpoint["global_step"]

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: at once
        self._signal = number
        print(
            f"\n{signal.Signals(number).name}: stopping after this optimizer step; Ctrl-C again stops at once",
            flush=True,
        )

    def _asked_to_stop(self, trainer: pl.Trainer) -> bool:
        asked = self._signal is not None
        # Processes hear a signal at different times, and must stop at the same step.
        return (
            asked
            if trainer.world_size == 1
            else bool(trainer.strategy.reduce_boolean_decision(asked, all=False))
        )

    def _save(self, trainer: pl.Trainer, step: int) -> None:
        trainer.save_checkpoint(self._folder / f"step-{step:07d}.ckpt", weights_only=False)
        self._saved_step = step
        if trainer.is_global_zero:
            for old in self._found()[self._keep :]:
                old.unlink()

    def _stop(self, trainer: pl.Trainer) -> None:
        found = self._found()
        if trainer.is_global_zero:
            print(
                f"stopped at step {trainer.global_step}; the same command goes on from {found[0] if found else 'there'}"
            )
        raise SystemExit(128 + (self._signal or signal.SIGTERM))

    def _found(self) -> list[Path]:
        return checkpoints(self._folder)


def checkpoint_bytes(module: pl.LightningModule) -> int:
    """Return the size of a checkpoint: the adapters, and what the optimizer keeps of them."""
    return sum(
        parameter.nbytes + state_bytes(module.optim_settings, parameter.numel())
        for parameter in trained_parameters(module.adapted).values()
    )


def _elements(module: pl.LightningModule) -> int:
    return sum(parameter.numel() for parameter in trained_parameters(module.adapted).values())


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
