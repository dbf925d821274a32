"""Stages run one after the other; one that dies is reported and the others go on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu import run_process


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_process_that_ends_well_has_no_problem(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import os; print(os.environ['HF_HUB_OFFLINE'])"
    assert run_process(python(code), log, 60) == {}
    assert log.read_text() == "1\n"


def is_running(pid: str) -> bool:
    """Whether a process exists and has not ended."""
    try:
        status = Path("/proc", pid, "status").read_text(encoding="utf-8")
    except OSError:
        return False
    return "State:\tZ" not in status


@pytest.mark.parametrize(
    ("code", "returncode"),
    [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)],
)
def test_a_process_that_dies_is_reported(tmp_path: Path, code: str, returncode: int) -> None:
    lines = "\n".join(["print('first', flush=True)"] + ["print('later', flush=True)"] * 20)
    assert run_process(python(f"{lines}\n{code}"), tmp_path / "log", 60) == {
        "failed": f"return code {returncode}",
        "returncode": returncode,
        "log": ["later"] * gpu.LOG_LINES,
    }


def test_a_process_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    command = ["sh", "-c", "sleep 600 & echo $!; wait"]
    problem = run_process(command, tmp_path / "log", 5)
    assert problem["failed"] == "took more than 5 s" and problem["returncode"] == -9
    (child,) = problem["log"]
    for _ in range(600):  # the kernel ends it soon
        if not is_running(child):
            break
        time.sleep(0.1)
    assert not is_running(child)
    assert run_process(python("pass"), tmp_path / "log", 0)["failed"] == "no time left"


def test_sigterm_ends_the_stage_that_runs(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from benchmarks import gpu, measure; measure.exit_on_sigterm(); "
        "gpu.run_process(['sleep', '600'], pathlib.Path(sys.argv[1]), 600)"
    )
    command = [*python(code), str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = process.stdout.readline()
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    assert not is_running(started.split()[1].rstrip(","))


def test_the_other_stages_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = []

    def run(command: Sequence[str], log: Path, limit: float) -> dict[str, Any]:
        limits.append(limit)
        stage = command[command.index("benchmarks.gpu_stages") + 1]
        assert command[-4:] == ["--folder", "base", "--results", str(tmp_path)]
        if stage == "package":
            return {"failed": "return code -9", "returncode": -9, "log": ["the last line"]}
        (tmp_path / f"{stage}.json").write_text("{}", encoding="utf-8")
        late = {"failed": "took more than 400 s", "returncode": -9, "log": []}
        return late if stage == "generate" else {}

    monkeypatch.setattr(gpu, "run_process", run)
    monkeypatch.setattr(gpu, "installed_python", lambda library: None)
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: 100.0)
    (tmp_path / "package.json").write_text('{"epoch_minutes": 8}', encoding="utf-8")
    stages = ["profile", "package", "unsloth", "generate"]
    assert gpu.run_stages(stages, Path("base"), tmp_path, 500, ["--tiny"]) == ["package"]
    assert limits == [200, 200, 400]
    results = {stage: json.loads((tmp_path / f"{stage}.json").read_text()) for stage in stages}
    assert results["profile"] == results["generate"] == {}
    assert results["package"]["returncode"] == -9
    assert results["unsloth"]["skipped"].endswith("python -m benchmarks.baselines unsloth")
    printed = capsys.readouterr().out
    assert "generate: done, then took more than 400 s, 0 s\n" in printed
    assert "package: failed: return code -9" in printed and "    the last line\n" in printed


def test_too_few_rows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n" * 10, encoding="utf-8")
    arguments = ["gpu", "--tiny", "--rows", str(rows), "--results", str(tmp_path / "results")]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.setattr(gpu, "run_stages", lambda *_: pytest.fail("there are too few rows"))
    with pytest.raises(SystemExit, match=r"got 10\. Write the file"):
        gpu.main()
