"""Two processes never write to one run's folder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mv_lightning.training.run_lock import RunLock, wait_for_lock

HOLD = """
import sys
from pathlib import Path
from mv_lightning.training.run_lock import RunLock

lock = RunLock(Path(sys.argv[1]))
lock.acquire()
print("locked", flush=True)
sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """Return a process that has the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    return process


def test_the_owner_is_named_and_a_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".lock"
    owner = hold(path)
    try:
        with pytest.raises(ValueError, match=rf"in use by process {owner.pid} on .+ since 20"):
            RunLock(path).acquire()
        assert not RunLock(path).try_acquire()
    finally:
        owner.kill()
        owner.wait()
    lock = RunLock(path)
    assert lock.try_acquire()
    assert f'"process": {os.getpid()}' in path.read_text()
    lock.release()
    # Given back, it is free for another process.
    owner = hold(path)
    owner.kill()
    owner.wait()


def test_a_lock_that_another_process_has_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    owner = hold(path)
    end = threading.Timer(0.5, owner.kill)
    end.start()
    with wait_for_lock(path):
        assert owner.wait(10) != 0
        assert f'"process": {os.getpid()}' in path.read_text()
    owner = hold(path)  # it was given back
    owner.kill()
    owner.wait()
