"""Limits and profilers of the Trainer do what Lightning's documentation says."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from mv_lightning.artifacts.evaluations import read_evaluated
from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.cli import main
from mv_lightning.experiments.resume_check import logged_values
from mv_lightning.testing import tiny_options
from tests.conftest import ROOT

PROFILERS = """
trainer:
  profiler:
    class_path: {name}
    init_args: {{dirpath: {folder}, filename: costs}}
"""


def fit(base: Path, run: Path, options: str) -> PhaseFolder:
    args = ["--config", str(ROOT / "configs/phase1.yaml"), *tiny_options(base, run)]
    main(["fit", *args, *shlex.split(options)])
    return PhaseFolder(run, 1)


def test_a_limit_on_training_batches_shortens_the_epochs_and_the_schedule(
    tiny_folder: Path, tmp_path: Path
) -> None:
    limits = "--trainer.max_steps -1 --trainer.max_epochs 3 --trainer.limit_train_batches 4"
    phase = fit(tiny_folder, tmp_path, f"{limits} --model.optim.warmup_steps 1")
    rates = list(logged_values(phase, "train/lr").values())
    peak = max(rates)
    # 4 batches are 2 steps of an epoch.
    assert rates == pytest.approx([0.0, *(peak * (1 - step / 5) for step in range(5))])
    assert json.loads(phase.summary.read_text())["steps"] == 6


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("SimpleProfiler", "SingleDeviceStrategy.training_step"),
        pytest.param("AdvancedProfiler", "forward", marks=pytest.mark.slow),
        pytest.param("PyTorchProfiler", "aten::mm", marks=pytest.mark.slow),
    ],
)
def test_profilers_report_their_figures(
    name: str, entry: str, tiny_folder: Path, tmp_path: Path
) -> None:
    config = tmp_path / "profiler.yaml"
    config.write_text(PROFILERS.format(name=name, folder=tmp_path / "profile"))
    fit(tiny_folder, tmp_path / "run", f"--config {config} --trainer.max_steps 2")
    (report,) = (tmp_path / "profile").glob("fit-*.txt")
    assert entry in report.read_text()


def test_a_limited_test_covers_its_batches_only(
    trained_phase: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_phase.parent, run)
    limits = ["--trainer.limit_test_batches", "2", "--data.eval_tokens", "700"]
    main(
        [
            "test",
            "--config",
            str(ROOT / "configs/phase1.yaml"),
            *tiny_options(tiny_folder, run),
            *limits,
        ]
    )
    phase = PhaseFolder(run, 1)
    rows = len(read_evaluated(phase.path / "partial_test.csv").log_odds_N)
    assert 0 < rows < 16 and not phase.evaluated_rows("test").is_file()
