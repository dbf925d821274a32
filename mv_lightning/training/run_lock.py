"""One process owns a run's folder while it writes there."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

_POLL_SECONDS = 0.2


class RunLock:
    """An advisory lock on a file, with the host, the process and the start time of its owner.

    The operating system releases a POSIX record lock when its process ends, however it ends, so a
    lock is never left behind; child processes do not inherit it. Readers need no lock.
    """

    def __init__(self, path: Path, option: str = "--run.dir") -> None:
        """Do not lock yet.

        Args:
            path: The lock file. It is created, and left in place.
            option: The option that names its folder, for the message.
        """
        self._path = path
        self._option = option
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            ValueError: Another process has it. The message names the owner.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = _describe(file.read())
            file.close()
            raise ValueError(
                f"{self._path.parent} is in use by {holder}. Wait until it has ended, stop it, or "
                f"choose another folder with {self._option}"
            ) from error
        file.truncate(0)
        owner = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": datetime.now().isoformat(timespec="seconds"),
        }
        json.dump(owner, file)
        file.flush()
        self._file = file

    def try_acquire(self) -> bool:
        """Take the lock, and return whether it was free."""
        try:
            self.acquire()
        except ValueError:
            return False
        return True

    def release(self) -> None:
        """Give the lock back; nothing is done where it was not taken."""
        if self._file is not None:
            self._file.close()
            self._file = None


@contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold a lock, for which other processes may have to be waited for.

    Args:
        path: Of the lock file.
    """
    lock = RunLock(path)
    while not lock.try_acquire():
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _describe(content: str) -> str:
    try:
        owner = json.loads(content)
        return f"process {owner['process']} on {owner['host']} since {owner['since']}"
    except (ValueError, LookupError, TypeError):  # the owner has not written it yet
        return "another process"
