"""Checkpoint files: written whole or not at all, read without running code, checked before use."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from mv_lightning.atomic import atomic_file, free_bytes
from mv_lightning.formatting import first_line, setting_differences
from mv_lightning.versioning import check_format_version


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file beside its target, syncs it and renames it.

    Lightning's own way goes through the system's temporary folder, which is often small and on
    another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write `checkpoint` to `path`, whole or not at all.

        Raises:
            ValueError: It cannot be written, for example on a full disk. Older checkpoints are left
                as they are.
        """
        path = Path(path)
        try:
            with atomic_file(path) as tmp_path:
                torch.save(checkpoint, tmp_path)
        except (OSError, RuntimeError) as error:  # torch's zip writer raises the latter
            older = checkpoints(path.parent)
            resume = (
                f"from {older[0]}" if older else "from the start, as there is no checkpoint yet"
            )
            raise ValueError(
                f"the checkpoint {path} could not be written ({first_line(error)}); "
                f"{free_bytes(path) / 1e9:.2f} GB are free. Free some space and run the same "
                f"command again. It resumes {resume}"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: Any = True
    ) -> dict[str, Any]:
        """Read a checkpoint with `read_checkpoint`, whatever `weights_only` is."""
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint without running any code that it may contain.

    Args:
        path: A local file.
        map_location: As in `torch.load`.
        mmap: Leave the tensors on the disk until they are used.

    Raises:
        ValueError: The file is not a checkpoint, contains more than tensors and plain values, is
            damaged, or was written by a release with another format.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(
            path, map_location=map_location, weights_only=True, mmap=mmap
        )
        _ = checkpoint["state_dict"], checkpoint["global_step"]
    except Exception as error:  # what a damaged or foreign file raises has no common class
        raise ValueError(
            f"{path} is not a checkpoint of mv_lightning, or it is damaged "
            f"({type(error).__name__}). Only tensors and plain values are read, and no code in the "
            "file was run. Name another checkpoint, or start the phase again with --fresh"
        ) from error
    check_format_version(checkpoint, path, "a checkpoint")
    return checkpoint


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, the newest step first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def find_corruption(path: Path) -> str | None:
    """Return what is wrong with a checkpoint file, or None.

    Every record is read and compared with its checksum.
    """
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        return str(error)
    return broken and f"the record {broken} does not match its checksum"


def latest_valid(folder: Path) -> Path | None:
    """Return the newest checkpoint that is not damaged, or None if there are no checkpoints.

    A warning is printed for each damaged one.

    Raises:
        ValueError: There are checkpoints, and all are damaged.
    """
    found = checkpoints(folder)
    for path in found:
        corruption = find_corruption(path)
        if corruption is None:
            return path
        print(f"warning: {path} is damaged ({corruption}). The checkpoint before it is tried")
    if found:
        raise ValueError(
            f"all checkpoints in {folder} are damaged. Start the phase again with --fresh"
        )
    return None


def check_settings(path: Path, checkpoint: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse to resume with settings that would change the result of the run.

    Args:
        path: Where the checkpoint was read from.
        checkpoint: A checkpoint.
        settings: Option names and their values now.

    Raises:
        ValueError: Settings differ. Each is named with both values.
    """
    differences = setting_differences(checkpoint["settings"], settings)
    if differences:
        raise ValueError(
            f"{path} cannot be resumed with other settings: {differences}. Restore them, or start "
            "the phase again with --fresh (the existing folder is renamed)"
        )
