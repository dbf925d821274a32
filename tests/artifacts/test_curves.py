"""Curves are read from TensorBoard's files, or from the file of a CSVLogger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger
from torch.utils.tensorboard import SummaryWriter

from mv_lightning.artifacts.curves import csv_curve, tensorboard_curve
from mv_lightning.artifacts.layout import PhaseFolder


def csv_settings(folder: Path, **options: Any) -> dict[str, Any]:
    options = {"save_dir": str(folder), "name": "lightning_logs", "version": None, **options}
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": options}
    return {"trainer": {"logger": logger}}


def write_csv(folder: Path, **options: Any) -> None:
    logger = CSVLogger(folder, **options)
    for step in range(3):
        logger.log_metrics({"train/loss": 1.0 - step / 4}, step=step)
    logger.log_metrics({"val/loss": 0.5}, step=2)
    logger.save()


def test_a_repeated_step_of_tensorboard_comes_twice(tmp_path: Path) -> None:
    folder = PhaseFolder(tmp_path, 1)
    for values in ((1.0, 0.75), (0.5, 0.25)):
        with SummaryWriter(str(folder.tensorboard)) as writer:
            for step, value in enumerate(values):
                writer.add_scalar("train/loss", value, step)
    curve = list(tensorboard_curve(folder, "train/loss"))
    assert curve == [(0, 1.0), (1, 0.75), (0, 0.5), (1, 0.25)]
    assert not list(tensorboard_curve(folder, "val/loss"))
    assert not list(tensorboard_curve(PhaseFolder(tmp_path, 2), "train/loss"))


@pytest.mark.parametrize("options", [{}, {"version": 3}, {"name": "runs", "version": "a"}])
def test_the_file_of_a_csv_logger(options: dict[str, Any], tmp_path: Path) -> None:
    write_csv(tmp_path, **options)
    settings = csv_settings(tmp_path, **options)
    assert list(csv_curve(settings, "train/loss")) == [(0, 1.0), (1, 0.75), (2, 0.5)]
    assert list(csv_curve(settings, "val/loss")) == [(2, 0.5)]
    assert not list(csv_curve(settings, "val/auroc"))


def test_nothing_is_read_of_several_versions_or_no_csv_logger(tmp_path: Path) -> None:
    write_csv(tmp_path)
    write_csv(tmp_path)
    assert not list(csv_curve(csv_settings(tmp_path), "train/loss"))
    assert list(csv_curve(csv_settings(tmp_path, version=1), "train/loss"))
    for logger in (None, True, False, [], [{"class_path": "x.WandbLogger", "init_args": {}}]):
        assert not list(csv_curve({"trainer": {"logger": logger}}, "train/loss"))
