"""What every command has in common: how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ANALYZE = (
    "analyze --data.source synthetic:200 --data.splits.rows 20 --data.splits.test_rows 4 "
    "--data.splits.val_fraction 0.2"
)


@pytest.mark.parametrize("args", ["--help", ANALYZE])
def test_a_closed_output_is_no_error(args: str, tmp_path: Path) -> None:
    """As behind `| head`: no message, and the status of SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mv_lightning", *args.split()]
    try:
        ended = subprocess.run(
            command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(writer)
    assert ended.returncode == 128 + signal.SIGPIPE
    assert "rror" not in ended.stderr  # neither "error:" nor "BrokenPipeError"
