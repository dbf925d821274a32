"""The curves that a phase logged: TensorBoard's, or those of Lightning's CSVLogger."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mv_lightning.artifacts.layout import PhaseFolder


def logged_curve(folder: PhaseFolder, settings: Mapping[str, Any], tag: str) -> dict[int, float]:
    """Return a curve that a phase logged: value by step; empty where nothing is found.

    A step that was repeated after an interruption counts once.

    Args:
        folder: A phase.
        settings: All of its settings.
        tag: Name of the curve, such as `train/loss`.
    """
    return dict(tensorboard_curve(folder, tag)) or dict(csv_curve(settings, tag))


def tensorboard_curve(folder: PhaseFolder, tag: str) -> Iterator[tuple[int, float]]:
    """Yield the steps and values of a curve in the order in which they were logged.

    A step that was repeated after an interruption comes twice.

    Args:
        folder: A phase.
        tag: Name of the curve, such as `train/loss`.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for file in sorted(folder.tensorboard.glob("events.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0, "images": 1})
        events.Reload()
        if tag in events.Tags()["scalars"]:
            yield from ((event.step, event.value) for event in events.Scalars(tag))


def csv_curve(settings: Mapping[str, Any], tag: str) -> Iterator[tuple[int, float]]:
    """Yield the steps and values of a curve that a CSVLogger wrote.

    Nothing is yielded where the phase had no CSVLogger, or where its file is not known because it
    numbered several versions by itself.

    Args:
        settings: All settings of a phase.
        tag: Name of the curve, such as `train/loss`.
    """
    loggers = settings["trainer"]["logger"]
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, Mapping) and logger["class_path"].endswith(".CSVLogger"):
            files = _csv_files(logger["init_args"])
            if len(files) == 1:
                yield from _read_csv(files[0], tag)


def _csv_files(options: Mapping[str, Any]) -> list[Path]:
    folder = Path(options["save_dir"], options.get("name") or "")
    version = options.get("version")
    if version is None:
        pattern = "version_*"
    else:
        pattern = version if isinstance(version, str) else f"version_{version}"
    return list(folder.glob(f"{pattern}/metrics.csv"))


def _read_csv(file: Path, tag: str) -> Iterator[tuple[int, float]]:
    with file.open(newline="", encoding="utf-8") as lines:
        for line in csv.DictReader(lines):
            if line.get(tag):
                yield int(line["step"]), float(line[tag])
