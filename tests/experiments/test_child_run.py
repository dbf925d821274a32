"""A child process runs to its end, or is killed when a condition holds."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mv_lightning.experiments.child_run import KILLED, check_status, run_child, wait_for


def sleeper(seconds: float = 60) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])


def test_the_output_of_a_child_is_appended_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "new" / "log.txt"
    assert run_child(["--help"], log) == 0
    length = log.stat().st_size
    assert "usage: python -m mv_lightning" in log.read_text()
    assert run_child(["--help"], log) == 0
    assert log.stat().st_size == 2 * length


def test_a_failure_ends_with_the_last_line_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    args = ["no-such-command"]
    status = run_child(args, log)
    assert status == 2
    with pytest.raises(
        ValueError, match=r"`no-such-command` ended with status 2: error: .*no-such"
    ):
        check_status(args, status, log)
    check_status(args, 0, log)
    check_status(args, KILLED, log)


def test_a_child_is_killed_once_the_condition_holds(tmp_path: Path) -> None:
    start = time.monotonic()
    status = run_child(["--help"], tmp_path / "log.txt", kill_when=lambda: True)
    assert status == KILLED and time.monotonic() - start < 30


def test_a_child_that_ends_before_the_condition_holds_is_not_killed() -> None:
    child = sleeper(0.1)
    assert wait_for(child.poll, child.kill, lambda: False) == 0


def test_an_interrupt_gives_the_child_time_to_end() -> None:
    child = sleeper(0.5)
    polls = itertools.count()

    def poll() -> int | None:
        if next(polls) == 0:
            raise KeyboardInterrupt
        return child.poll()

    with pytest.raises(KeyboardInterrupt):
        wait_for(poll, child.kill)
    assert child.returncode == 0


def test_a_watched_child_is_killed_by_an_interrupt_of_the_parent() -> None:
    child = sleeper()

    def interrupted() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait_for(child.poll, child.kill, interrupted)
    assert child.returncode == KILLED


def test_threads_are_those_of_the_child_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    class Popen:
        def __init__(self, args: list[str], env: dict[str, str], **options: object) -> None:
            seen.update(env)

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Popen)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    run_child(["--help"], threads=1)
    assert seen["OMP_NUM_THREADS"] == "1" and os.environ["OMP_NUM_THREADS"] == "2"


def test_an_interrupted_process_group_ends_together(tmp_path: Path) -> None:
    """As Ctrl-C in a terminal: the parent and its child are interrupted at once."""
    code = (
        "import signal, subprocess, sys\n"
        "from mv_lightning.experiments.child_run import wait_for\n"
        # A shell starts background jobs with this signal ignored, which children inherit.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('started', flush=True)\n"
        "wait_for(child.poll, child.kill)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert parent.stdout is not None and parent.stdout.readline() == b"started\n"
    time.sleep(0.2)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.wait(timeout=120) != 0


def test_termination_is_forwarded_to_the_child() -> None:
    code = (
        "import subprocess, sys\n"
        "from mv_lightning.experiments import child_run\n"
        "class Child(subprocess.Popen):\n"
        "    def __init__(self, args, **options):\n"
        "        super().__init__([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "        print('started', flush=True)\n"
        "child_run.subprocess.Popen = Child\n"
        "print(child_run.run_child(['fit']))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None and parent.stdout.readline() == "started\n"
    time.sleep(0.2)
    parent.terminate()
    assert parent.communicate(timeout=120)[0] == f"{-signal.SIGTERM}\n"
    assert parent.returncode == 0
