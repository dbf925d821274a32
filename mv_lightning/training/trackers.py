"""Loggers of a phase: TensorBoard by default, any of Lightning's with `trainer.logger`."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.versioning import read_versioned_json, write_versioned_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUN_ID_OPTIONS = {"MLFlowLogger": "run_id", "WandbLogger": "version"}
"""Loggers that number their runs themselves, and the option that continues a run."""


def phase_logger(folder: PhaseFolder) -> TensorBoardLogger:
    """Return the default logger, which writes to the phase's TensorBoard folder.

    Args:
        folder: The phase.
    """
    curves = folder.tensorboard
    return TensorBoardLogger(
        str(curves.parent.parent), name=curves.parent.name, version=curves.name
    )


def log_figures(loggers: Iterable[Logger], figures: Mapping[str, Figure], step: int) -> None:
    """Log figures to each logger that has a method for them.

    They are files in the phase's folder too, so that the other loggers lose nothing.

    Args:
        loggers: Of the trainer.
        figures: By name, such as `val/roc`.
        step: Optimizer step, counted from 0 over all phases.
    """
    for logger in loggers:
        for name, figure in figures.items():
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(name, figure, step, close=False)
            elif isinstance(logger, WandbLogger):
                logger.log_image(name, [figure], step)
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_figure(logger.run_id, figure, f"{name}.png")


def store_run_ids(loggers: Iterable[Logger], folder: PhaseFolder) -> None:
    """Store the ids of runs that loggers have numbered, for `continue_runs`.

    Args:
        loggers: Of the trainer.
        folder: The phase.
    """
    ids = [(type(logger).__name__, logger.version) for logger in loggers]
    if any(name in RUN_ID_OPTIONS for name, _ in ids):
        write_versioned_json(folder.trackers, {"runs": ids})


def continue_runs(loggers: Any, folder: PhaseFolder) -> None:
    """Name the stored ids in the options of the loggers that do not name a run.

    Args:
        loggers: The option `trainer.logger`; changed in place.
        folder: The phase.
    """
    if not folder.trackers.is_file():
        return
    given = loggers if isinstance(loggers, list) else [loggers]
    stored = read_versioned_json(folder.trackers, "the run ids of loggers")["runs"]
    for logger, (name, run_id) in zip(given, stored, strict=False):
        option = RUN_ID_OPTIONS.get(name)
        if option is None or not isinstance(logger, Namespace):
            continue
        same_class = logger.class_path.rpartition(".")[2] == name
        if same_class and not (logger.init_args.get(option) or logger.init_args.get("id")):
            logger.init_args[option] = run_id


def keep_csv_rows(loggers: Iterable[Logger], steps: int) -> None:
    """Carry the rows of the steps that are done over to the new file of a CSVLogger.

    A CSVLogger with a fixed version deletes the file of its earlier start.

    Args:
        loggers: Of the trainer, before they have logged.
        steps: Optimizer steps done, counted over all phases.
    """
    for logger in loggers:
        file = Path(logger.log_dir or "", "metrics.csv")
        if not isinstance(logger, CSVLogger) or not file.is_file():
            continue
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Experiment logs directory")
            writer = logger.experiment
        for row in rows:
            step = int(row.pop("step"))
            if step < steps:
                values = {name: float(value) for name, value in row.items() if value}
                writer.log_metrics(values, step)
        logger.save()
