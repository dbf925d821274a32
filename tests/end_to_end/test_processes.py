"""Two processes train and evaluate as one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.experiments.resume_check import compare_phases, logged_values
from mv_lightning.testing import run_command, tiny_options
from tests.conftest import ROOT


def fit(base: Path, run: Path, *options: str) -> PhaseFolder:
    args = ["fit", "--config", "configs/phase1.yaml", *tiny_options(base, run), *options]
    printed = run_command(*args)
    assert printed.count("phase1: ") == 1, printed
    return PhaseFolder(run, 1)


EXACT = (
    "--trainer.precision",
    "32-true",
    "--model.optim.name",
    "adamw_torch",
    "--data.splits.rows",
    "34",
)
"""fp32, so that the order of sums is all that differs; 26 rows make a last step of 2, which
only one process has."""
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


@pytest.fixture(scope="module")
def two(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PhaseFolder:
    return fit(tiny_folder, tmp_path_factory.mktemp("two"), *EXACT, *TWO)


@pytest.mark.slow  # tests/training/test_processes.py compares them in every run
def test_two_processes_train_like_one_with_twice_the_batch(
    two: PhaseFolder, tiny_folder: Path, tmp_path: Path
) -> None:
    one = fit(tiny_folder, tmp_path, *EXACT, "--data.batch_size", "4")
    left, right = (logged_values(folder, "train/loss") for folder in (one, two))
    assert left.keys() == right.keys() and len(left) == 4
    for step, loss in left.items():
        assert right[step] == pytest.approx(loss, rel=1e-4), step
    weights, others = (
        load_file(folder.adapter / "adapter_model.safetensors") for folder in (one, two)
    )
    moved = torch.cat([weight.flatten() for name, weight in weights.items() if "lora_B" in name])
    differing = torch.cat(
        [(weight - others[name]).flatten() for name, weight in weights.items() if "lora_B" in name]
    )
    assert differing.abs().mean() < 1e-3 * moved.abs().mean()
    # No validation row was counted twice, though the processes had different numbers of batches.
    summaries = [json.loads(folder.summary.read_text()) for folder in (one, two)]
    for name in ("steps", "rows", "tokens", "validation_rows", "val_acc", "val_auroc"):
        assert summaries[0][name] == summaries[1][name], name
    assert summaries[0]["val_loss"] == pytest.approx(summaries[1]["val_loss"], rel=1e-3)


@pytest.mark.slow
def test_two_processes_resume_where_they_were_stopped(tiny_folder: Path, tmp_path: Path) -> None:
    """Each process gets its own random generator back: with dropout, one for both would show."""
    options = (
        *TWO,
        "--model.lora.dropout",
        "0.3",
        "--run.save_every",
        "1",
        "--trainer.max_epochs",
        "4",
    )
    straight = fit(tiny_folder, tmp_path / "straight", *options)
    killed = PhaseFolder(tmp_path / "killed", 1)
    args = [
        "fit",
        "--config",
        "configs/phase1.yaml",
        *tiny_options(tiny_folder, killed.run),
        *options,
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "mv_lightning", *args],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    while process.poll() is None and not (killed.checkpoints / "step-0000001.ckpt").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not killed.summary.exists()
    fit(tiny_folder, killed.run, *options)
    assert not any(compare_phases(straight, killed).values())
