"""This program as a child process: run to its end, or killed when a condition holds.

Each run in a process of its own starts with empty memory, and a crash of it leaves the parent and
all finished runs as they are. A kill is SIGKILL: the child gets no chance to save anything.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from mv_lightning.signals import on_sigterm

KILLED = -signal.SIGKILL
"""Exit status of a child that was killed."""
_POLL_SECONDS = 0.02
_WATCH_SECONDS = 0.001
"""Between two checks of a condition: short, so that a child can be killed while it writes a
file."""


def run_child(
    args: Sequence[str],
    log: Path | None = None,
    threads: int | None = None,
    kill_when: Callable[[], bool] | None = None,
) -> int:
    """Run a command of this program in a child process.

    Args:
        args: The command and its options.
        log: File that the child's output is appended to; None: the child writes to the parent's
            output.
        threads: Threads of the child's matrix products; None: as many as in the parent.
        kill_when: Checked continually; the child and its own children are killed once it
            returns True.

    Returns:
        The exit status; `KILLED` for a child that was killed.
    """
    env = dict(os.environ)
    if threads is not None:
        env["OMP_NUM_THREADS"] = str(threads)
    with ExitStack() as stack:
        output = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            output = stack.enter_context(log.open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-m", "mv_lightning", *args],
            stdout=output,
            stderr=output,
            env=env,
            # A process group of its own is killed together; Ctrl-C in the terminal does not reach
            # it.
            process_group=None if kill_when is None else 0,
        )

    def kill() -> None:
        if kill_when is None:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)

    # The child saves its state and ends, instead of being left alone.
    with on_sigterm(lambda: process.terminate()):
        return wait_for(process.poll, kill, kill_when)


def wait_for(
    poll: Callable[[], int | None],
    kill: Callable[[], None],
    kill_when: Callable[[], bool] | None = None,
) -> int:
    """Wait for a child process to end, and kill it when a condition holds.

    An interrupt (Ctrl-C) reaches the parent and, in its process group, the child: the child is
    given the time to end by itself. A second interrupt kills it.

    Args:
        poll: Returns the child's exit status, None as long as it runs.
        kill: Kills the child.
        kill_when: Checked continually until the child ends; None: the child is never killed.

    Returns:
        The child's exit status.

    Raises:
        KeyboardInterrupt: The parent was interrupted; the child has ended.
    """
    try:
        while (status := poll()) is None:
            if kill_when is not None and kill_when():
                kill()
                kill_when = None
            time.sleep(_POLL_SECONDS if kill_when is None else _WATCH_SECONDS)
    except BaseException as error:
        if kill_when is not None or not isinstance(error, KeyboardInterrupt):
            kill()
        try:
            while poll() is None:
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            kill()
        raise
    return status


def check_status(args: Sequence[str], status: int, log: Path) -> None:
    """Raise an error for a child that failed; one that was killed has not failed.

    Args:
        args: The command and its options.
        status: The exit status.
        log: File that the child's output was appended to.

    Raises:
        ValueError: The status is neither 0 nor `KILLED`; the message ends with the log's last line.
    """
    if status not in (0, KILLED):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else "no output"
        raise ValueError(f"`{shlex.join(args)}` ended with status {status}: {last}")
