"""The results of an experiment as tables, figures and files."""

from __future__ import annotations

import csv
import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mv_lightning.artifacts.layout import ExperimentFolder
from mv_lightning.atomic import atomic_file
from mv_lightning.experiments.grid import Grid
from mv_lightning.experiments.option_files import value_text
from mv_lightning.experiments.results import CellResult
from mv_lightning.metrics.comparison import COMPARED, Interval
from mv_lightning.metrics.plots import SettingPoint, metric_by_setting, save_png
from mv_lightning.reporting.blocks import Block, Picture, Section, Table, write_report
from mv_lightning.reporting.phase_blocks import metric_title
from mv_lightning.versioning import write_versioned_json

_SHOWN = ("accuracy", "auroc", "log_loss")
"""Metrics in the table; all are in the files."""
_PLOTTED = ("accuracy", "auroc")
_COSTS = {
    "minutes": "minutes",
    "peak_gb": "peak GB",
    "trained": "trained parameters",
    "first_loss": "first evaluation loss",
    "last_loss": "last evaluation loss",
}
"""Columns of the cost table, by the field of `RunResult`."""
_NOTE = (
    "Behind a mean: the 95 % interval of Student's t over the seeds, of which each draws other "
    "rows, another order and other adapters; a single seed has none. Behind a difference from the "
    "reference: the 95 % interval of a bootstrap over the questions of the evaluated rows, which "
    "are the same rows for both. It says whether these runs differ on other questions, not whether "
    "runs with other seeds would. Minutes are those of training with its validations."
)


def results_table(grid: Grid, cells: Sequence[CellResult]) -> Table:
    """Return the metrics of the cells, and their differences from the reference.

    Args:
        grid: The experiment.
        cells: Its results.
    """
    head = ["cell", "seeds"]
    for name in _SHOWN:
        head += [metric_title(name), "difference"]
    rows = []
    for cell in cells:
        name = cell.cell.label
        row = [f"{name} (reference)" if cell.cell == grid.reference else name, str(len(cell.runs))]
        for metric in _SHOWN:
            row.append(interval_text(cell.means[metric]))
            difference = cell.differences.get(metric)
            row.append("-" if difference is None else interval_text(difference, signed=True))
        rows.append(row)
    return Table(head, rows)


def cost_table(cells: Sequence[CellResult]) -> Table:
    """Return what the cells cost, and their evaluation loss, as means over the seeds.

    Args:
        cells: The results.
    """
    rows = []
    for cell in cells:
        minutes, peak_gb, trained, *losses = map(cell.mean, _COSTS)
        texts = [f"{minutes:.1f}", f"{peak_gb:.1f}", f"{trained:,.0f}", *map(_number, losses)]
        rows.append([cell.cell.label, *texts])
    return Table(["cell", *_COSTS.values()], rows)


def interval_text(interval: Interval, signed: bool = False) -> str:
    """Return a value and its interval as a cell of a table.

    Args:
        interval: The value.
        signed: Whether positive numbers get a sign.
    """
    value, low, high = (
        _number(number, signed) for number in (interval.value, interval.low, interval.high)
    )
    return value if math.isnan(interval.low) else f"{value} ({low} to {high})"


def write_results(
    folder: Path,
    grid: Grid,
    cells: Sequence[CellResult],
    failures: Mapping[str, str],
    more: Sequence[Section] = (),
) -> None:
    """Write `report.md`, `report.html`, `results.csv`, `results.json` and a figure for each axis.

    Args:
        folder: Of the experiment.
        grid: The experiment.
        cells: Its results.
        failures: The runs that failed, and why.
        more: Further sections of the report.
    """
    experiment = ExperimentFolder(folder)
    blocks: list[Block] = [results_table(grid, cells), _NOTE, cost_table(cells)]
    sections = [Section("Results", blocks), *more]
    if failures:
        rows = list(failures.items())
        sections.append(Section("Failed runs", [Table(("run", "message"), rows)]))
    pictures = _write_figures(experiment, grid, cells)
    if pictures:
        sections.append(Section("Figures", pictures))
    _write_csv(experiment, cells)
    write_versioned_json(
        experiment.results,
        {
            "title": grid.title,
            "reference": grid.reference.label,
            "options": dict(grid.options),
            "cells": [cell.to_json() for cell in cells],
            "failures": dict(failures),
        },
    )
    write_report(folder, grid.title, sections)


def _write_csv(experiment: ExperimentFolder, cells: Sequence[CellResult]) -> None:
    """A line for each cell; empty where a value is undefined."""
    options = dict.fromkeys(name for cell in cells for name in cell.cell.options)
    head = ["cell", *options, "seeds"]
    for name in COMPARED:
        head += [name, f"{name}_low", f"{name}_high"]
        head += [f"{name}_difference", f"{name}_difference_low", f"{name}_difference_high"]
    nothing = Interval(math.nan, math.nan, math.nan)
    with (
        atomic_file(experiment.table) as tmp_path,
        tmp_path.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*head, *_COSTS])
        for cell in cells:
            values = [value_text(cell.cell.options.get(name, "")) for name in options]
            numbers = []
            for name in COMPARED:
                for interval in (cell.means[name], cell.differences.get(name, nothing)):
                    numbers += [interval.value, interval.low, interval.high]
            numbers += map(cell.mean, _COSTS)
            texts = ["" if math.isnan(number) else number for number in numbers]
            table.writerow([cell.cell.label, *values, len(cell.runs), *texts])


def _write_figures(
    experiment: ExperimentFolder, grid: Grid, cells: Sequence[CellResult]
) -> list[Block]:
    """A figure for each axis; none without matplotlib (the extra `plots`)."""
    if not cells or importlib.util.find_spec("matplotlib") is None:
        return []
    axes = {name: values for name, values in grid.axes.items() if len(values) > 1}
    pictures: list[Block] = []
    for name in axes or {"": ()}:
        points = [_point(cell, name) for cell in cells]
        title = name.rpartition(".")[2] or "cells"
        what = name or "cell"
        order = list(map(value_text, axes.get(name, ()))) or [p.setting for p in points]
        figure = metric_by_setting(points, order, what, list(map(metric_title, _PLOTTED)))
        file = experiment.plot(title)
        save_png(figure, file)
        pictures.append(Picture(file, f"{', '.join(map(metric_title, _PLOTTED))} by {what}"))
    return pictures


def _point(cell: CellResult, axis: str) -> SettingPoint:
    """The results of a cell at its value of an axis, in the series of its other values."""
    options = cell.cell.options
    intervals = [cell.means[name] for name in _PLOTTED]
    if not axis:
        return SettingPoint(cell.cell.label, "", intervals)
    others = [
        f"{name.rpartition('.')[2]}={value_text(value)}"
        for name, value in options.items()
        if name != axis
    ]
    return SettingPoint(value_text(options[axis]), ", ".join(others), intervals)


def _number(value: float, signed: bool = False) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:+.3f}" if signed else f"{value:.3f}"
