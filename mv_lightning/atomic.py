"""Files and folders that are written completely or not at all, and journals that survive a crash.

A file or folder is written under a temporary name in the folder of its target, synced to the disk
and renamed: a crash at any moment leaves either the old state or the new one. A journal is only
appended to, one line at a time: a crash costs it its last line.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path; rename what was written there to `target` if the block succeeds.

    Args:
        target: The file. Missing folders above it are made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    tmp_path = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield tmp_path
        _sync(tmp_path)
        tmp_path.replace(target)
        _sync(target.parent)
    finally:
        tmp_path.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; rename it to `target` if the block succeeds.

    Args:
        target: The folder. An existing one is replaced.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    tmp_path = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    for leftover in (tmp_path, old):
        shutil.rmtree(leftover, ignore_errors=True)
    tmp_path.mkdir()
    try:
        yield tmp_path
        for file in tmp_path.rglob("*"):
            _sync(file)
        if target.exists():
            target.rename(old)
        tmp_path.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON, completely or not at all."""
    with atomic_file(target) as tmp_path:
        tmp_path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Return the value that a JSON file in UTF-8 holds.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON, or not in UTF-8.
    """
    return json.loads(path.read_text(encoding="utf-8"))


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk that a file or folder would be written to.

    Args:
        path: It and the folders above it need not exist yet.
    """
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(existing).free


def rename_existing(path: Path) -> Path:
    """Rename `path` to a free name in the same folder, so that nothing is lost.

    Args:
        path: A file or folder.

    Returns:
        Its new path: the old name and a number.
    """
    names = (path.with_name(f"{path.name}.{n}") for n in itertools.count(1))
    free = next(name for name in names if not name.exists())
    path.rename(free)
    return free


class Journal:
    """A file of JSON values, one a line, that is only ever appended to.

    Each value is handed to the operating system before `append` returns, so a kill costs at most
    the line that was being written; a power cut costs what was appended in the last few seconds.
    """

    SYNC_SECONDS = 5.0
    """Longest time until an appended line is synced: to sync each would cost more than a batch."""

    def __init__(self, path: Path) -> None:
        """Open for appending; a missing file is made.

        Args:
            path: A new file, or one that `read` has truncated to its complete lines.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._synced = time.monotonic()

    @staticmethod
    def read(path: Path) -> Iterator[Any]:
        """Yield the values of a journal that no process is appending to, one by one.

        The file is truncated at the first line that is incomplete or damaged, once it is reached.

        Args:
            path: The file.
        """
        valid_bytes = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    value = json.loads(line)
                except ValueError:
                    break
                if not line.endswith(b"\n"):
                    break
                valid_bytes += len(line)
                yield value
        os.truncate(path, valid_bytes)

    def append(self, value: Any) -> None:
        """Add one line, in one write.

        Args:
            value: A value that JSON can hold.
        """
        self._file.write(json.dumps(value).encode() + b"\n")
        if time.monotonic() - self._synced > self.SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and close."""
        os.fsync(self._file.fileno())
        self._file.close()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
