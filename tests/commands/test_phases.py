"""`phases` skips finished phases, resumes an interrupted one, and starts nothing after a
failure."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mv_lightning.artifacts.layout import PhaseFolder, RunFolder
from mv_lightning.cli import main
from mv_lightning.commands import phases
from mv_lightning.model.adapter_files import WEIGHTS
from mv_lightning.testing import tiny_options
from mv_lightning.training.checkpoint_files import checkpoints
from tests.conftest import ROOT

NOWHERE = "model: {init_from: nowhere}"


def phase_files(folder: Path, **settings: str) -> Path:
    """Write phase files, by name and settings in YAML, and copy the real prediction file."""
    folder.mkdir()
    shutil.copy(ROOT / "configs" / "predict.yaml", folder)
    for name, text in settings.items():
        (folder / f"{name}.yaml").write_text(
            f"data: {{phase: {name.removeprefix('phase')}}}\n{text}\n"
        )
    return folder


def started(printed: str) -> list[str]:
    """The command and the configuration of every child that was started, in order."""
    lines = [line.split() for line in printed.splitlines() if line.startswith("$ python")]
    return [f"{words[4]} {Path(words[6]).stem}" for words in lines]


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch):
    """Here and in the commands that are started: their sums are then the same to the last bit."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_it_carries_on_where_it_stopped(
    tiny_folder: Path, tmp_path: Path, one_thread: None, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    files = phase_files(
        tmp_path / "files", phase1="", phase2="model: {init_from: previous}", phase3=NOWHERE
    )
    options = tiny_options(tiny_folder, run)
    for name in ("phase1", "phase2"):
        main(["fit", "--config", str(files / f"{name}.yaml"), *options])
    first, second, third = (PhaseFolder(run, number) for number in (1, 2, 3))
    wanted = (second.adapter / WEIGHTS).read_bytes()
    written = first.summary.stat().st_mtime_ns
    # Phase 2 as a kill before its end leaves it.
    second.summary.unlink()
    shutil.rmtree(second.adapter)
    checkpoints(second.checkpoints)[0].unlink()
    left = checkpoints(second.checkpoints)[0]
    capfd.readouterr()

    with pytest.raises(SystemExit) as end:
        main(["phases", "--folder", str(files), *options])
    printed, error = capfd.readouterr()
    assert end.value.code == 2 and "nowhere" in error
    # The base without an adapter is validated first; there is no prediction.
    assert started(printed) == ["validate phase1", "fit phase1", "fit phase2", "fit phase3"]
    assert RunFolder(run).untrained.phase(1).metrics.is_file()
    assert f"{first.path} is finished" in printed and first.summary.stat().st_mtime_ns == written
    assert f"{second.path} was interrupted; resuming from {left}" in printed
    assert (second.adapter / WEIGHTS).read_bytes() == wanted and second.summary.is_file()
    assert not third.summary.exists() and "val AUROC" not in printed


def test_phases_are_numbered_not_spelt(tmp_path: Path) -> None:
    files = phase_files(tmp_path / "files", phase10="", phase9="", phase2="")
    found = phases.phase_files(files)
    assert [file.stem for file in found] == ["phase2", "phase9", "phase10"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("phase2", "model: {lora: {rank: 8}}", "rank"),
        ("phase2", "run: {eval_every: often}", "eval_every"),
        ("predict", "data: {max_lenght: 1}", "max_lenght"),
    ],
)
def test_every_file_is_read_before_anything_is_trained(
    name: str,
    text: str,
    message: str,
    tiny_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    files = phase_files(tmp_path / "files", phase1="", phase2="")
    (files / f"{name}.yaml").write_text(text)
    with pytest.raises(SystemExit) as end:
        main(["phases", "--folder", str(files), *tiny_options(tiny_folder, tmp_path / "run")])
    printed, error = capfd.readouterr()
    assert (
        end.value.code == 2
        and message in error
        and not started(printed)
        and not (tmp_path / "run").exists()
    )


def test_a_folder_without_phases_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["phases", "--folder", str(tmp_path)])
    assert (
        end.value.code == 2
        and f"phase2.yaml, ... in {tmp_path}, got none. Run from" in capfd.readouterr().err
    )


@pytest.mark.slow
def test_an_interrupt_says_how_to_continue(tiny_folder: Path, tmp_path: Path) -> None:
    """As Ctrl-C in a terminal, which reaches the parent and the phase that it runs."""
    run = tmp_path / "run"
    files = phase_files(tmp_path / "files", phase1="")
    args = ["phases", "--folder", str(files), *tiny_options(tiny_folder, run), "--fresh"]
    log = tmp_path / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mv_lightning", *args, "--trainer.max_epochs", "500"],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    while process.poll() is None and not checkpoints(PhaseFolder(run, 1).checkpoints):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=120) == 130, log.read_text()
    last = log.read_text().splitlines()[-1]
    assert last.startswith("interrupted. To continue: python -m mv_lightning phases --folder")
    assert last.endswith("--trainer.max_epochs 500") and "fresh" not in last
    assert checkpoints(PhaseFolder(run, 1).checkpoints)


def test_a_phase_that_did_not_finish_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fit` exits with 0 when trainer.max_time is over, without a summary."""
    files = phase_files(tmp_path / "files", phase1="", phase2="")
    started: list[list[str]] = []

    def run_child(args: list[str]) -> int:
        started.append(args)
        return 0

    monkeypatch.setattr(phases, "run_child", run_child)
    with pytest.raises(SystemExit) as end:
        main(["phases", "--folder", str(files), "--run.dir", str(tmp_path / "run")])
    assert end.value.code == 1 and [args[0] for args in started] == ["validate", "fit"]
    error = capsys.readouterr().err
    assert "phase 1 is not finished" in error and "To continue: python -m" in error
