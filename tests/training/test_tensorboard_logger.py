"""Curves of a phase begin where those of the phase before end."""

from __future__ import annotations

from pathlib import Path

from mv_lightning.artifacts.curves import tensorboard_curve
from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.training.tensorboard_logger import PhaseLogger


def test_steps_are_counted_over_all_phases(tmp_path: Path) -> None:
    folder = PhaseFolder(tmp_path, 2)
    logger = PhaseLogger(folder, steps_before=50)
    for step in (0, 7):
        logger.log_metrics({"train/loss": 1.5 + step}, step)
    logger.save()
    assert folder.tensorboard.is_dir()
    assert list(tensorboard_curve(folder, "train/loss")) == [(50, 1.5), (57, 8.5)]
