"""`report`: all about a run on one page that needs nothing beside it."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mv_lightning.artifacts.calibrations import load_calibration
from mv_lightning.artifacts.evaluations import read_evaluated
from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.phase_results import STAGES, PhaseResults, curve, load_rows, read_run
from mv_lightning.atomic import atomic_file
from mv_lightning.numerics import sigmoid
from mv_lightning.reporting.blocks import Block, Code, Folded, Picture, Section, Table, html_page
from mv_lightning.reporting.phase_blocks import (
    metric_title,
    metrics_table,
    phase_tables,
    settings_tables,
    splits_section,
    with_interval,
)
from mv_lightning.reporting.results_table import phase_table
from mv_lightning.schema import TEXT_COLUMNS
from mv_lightning.versioning import read_versioned_json

MISTAKES = 10
SLICES = {"tokens": "tokens, at most", "truncated": "solution", "kind": "kind of error:"}
"""What the names of slices mean."""
SHOWN = ("accuracy", "auroc")
"""Of a slice."""


def run_report(words: list[str]) -> None:
    """Write the page of a run.

    Args:
        words: The command line after `report`.

    Raises:
        ValueError: No phase of the run is finished, or a file of one is missing or damaged.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mv_lightning report",
        description="Write one page about a run: settings, rows, curves, metrics with intervals, worst mistakes.",
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="the run's folder (run.dir)")
    options = parser.parse_args(words)
    phases = read_run(options.run)
    sections = [
        Section("Results", list(_results(options.run, phases))),
        Section("Loss", list(_loss(options.run, phases))),
        *(_metrics(phase) for phase in phases),
        Section("Worst mistakes", list(_mistakes(phases[-1]))),
        Section("Settings", [*settings_tables(phases), *_every_setting(phases)]),
        splits_section(phases[-1].manifest),
        Section("Environment", list(_environment(phases))),
        Section("To repeat", _repeat(phases)),
    ]
    page = RunFolder(options.run).report
    with atomic_file(page) as tmp_path:
        tmp_path.write_text(html_page(f"Run {options.run}", sections), encoding="utf-8")
    print(f"{', '.join(phase.name for phase in phases)}: {page}")


def _results(run: Path, phases: Sequence[PhaseResults]) -> Iterator[Block]:
    yield phase_table([phase.summary for phase in phases])
    yield (
        "Loss, accuracy and AUROC are those of each phase's validation rows at its end. Below, 95 % intervals stand in "
        "brackets: rows of one question are taken together."
    )
    alarms = {
        found["alarm"]: f"{phase.name}, {STAGES[stage]}: {found['alarm']}"
        for phase in phases
        for stage, found in phase.metrics.items()
        if found["alarm"]
    }
    yield from alarms.values()
    prediction = RunFolder(run).prediction_summary
    if prediction.is_file():
        said = read_versioned_json(prediction, "the summary of a prediction")
        reached = f", accuracy {said['accuracy']:.3f}" if "accuracy" in said else ""
        yield f"Predicted: {said['rows']:,} rows{reached}, in {said['submission']}."


def _loss(run: Path, phases: Sequence[PhaseResults]) -> Iterator[Block]:
    if importlib.util.find_spec("matplotlib") is None:
        yield "Not drawn: pip install 'mv-lightning[plots]'."
        return
    from mv_lightning.metrics.plots import PhaseLoss, loss_curve, save_png

    logged = []
    for phase in phases:
        # A step that was repeated after an interruption counts once.
        train, val = (dict(curve(phase.folder, tag)) for tag in ("train/loss", "val/loss"))
        if train:
            logged.append(
                PhaseLoss(
                    phase.name, list(train), list(train.values()), list(val), list(val.values())
                )
            )
    if not logged:
        yield f"Not drawn: there are no curves in {RunFolder(run).tensorboard}."
        return
    file = RunFolder(run).plots / "loss.png"
    save_png(loss_curve(logged), file)
    yield Picture(file, "Training and validation loss over the phases")


def _metrics(phase: PhaseResults) -> Section:
    """Metrics, slices and figures of one phase."""
    title = f"{phase.name.capitalize()}: metrics"
    if not phase.metrics:
        return Section(
            title, [f"{phase.name.capitalize()} has no metrics.json: run validate or test on it."]
        )
    blocks: list[Block] = [metrics_table(phase.metrics)]
    for stage, found in phase.metrics.items():
        slices = [
            (
                f"{SLICES[name]} {part or 'none'}",
                f"{of['rows']:,}",
                *(with_interval(of["metrics"][m]) for m in SHOWN),
            )
            for name, parts in found["slices"].items()
            for part, of in parts.items()
        ]
        table = Table(("", "rows", *map(metric_title, SHOWN)), slices)
        blocks.append(Folded(f"{STAGES[stage].capitalize()} by slices", [table]))
        figures = sorted(phase.folder.plots.glob(f"{stage}_*.png"))
        pictures = [
            Picture(file, f"{phase.name}, {STAGES[stage]}: {file.stem}") for file in figures
        ]
        blocks.append(Folded(f"{STAGES[stage].capitalize()}: {len(pictures)} figures", pictures))
    return Section(title, blocks)


def _mistakes(phase: PhaseResults) -> Iterator[Block]:
    """The validation rows on which the verdict was surest and wrong, with their texts."""
    file = phase.folder.path / "val.csv"
    if not file.is_file():
        yield f"Not told: {file} is missing; validate {phase.name} to have it."
        return
    rows_N, labels_N, raw_N = read_evaluated(file)
    calibration = load_calibration(phase.folder.adapter)
    odds_N = calibration.apply(raw_N)
    probabilities_N = sigmoid(odds_N)
    wrong_N = np.flatnonzero((odds_N > calibration.threshold) != labels_N)
    worst = wrong_N[np.argsort(-np.abs(odds_N[wrong_N] - calibration.threshold), kind="stable")][
        :MISTAKES
    ]
    yield f"{len(wrong_N):,} of {len(rows_N):,} validation rows of {phase.name} are judged wrongly; the surest first."
    try:
        texts = load_rows(phase).table
    except ValueError as error:
        yield f"Their texts are not shown: {error}"
        texts = None
    for place in worst:
        label, probability = bool(labels_N[place]), float(probabilities_N[place])
        title = f"Row {rows_N[place]}: labelled {label}, probability of True {probability:.3f}"
        if texts is None:
            yield title
        else:
            row = texts[int(rows_N[place])]
            yield Folded(
                title,
                [part for name in TEXT_COLUMNS for part in (name.capitalize(), Code(row[name]))],
            )


def _every_setting(phases: Sequence[PhaseResults]) -> list[Block]:
    return [
        Folded(
            f"Every setting of {phase.name}",
            [Code(phase.folder.config.read_text(encoding="utf-8"))],
        )
        for phase in phases
    ]


def _environment(phases: Sequence[PhaseResults]) -> Iterator[Block]:
    told = {
        phase.name: phase.summary["environment"]
        for phase in phases
        if "environment" in phase.summary
    }
    if not told:
        yield "Not known: the run is older than its recording."
        return
    yield from phase_tables(told)


def _repeat(phases: Sequence[PhaseResults]) -> list[Block]:
    lines: list[str] = []
    for phase in phases:
        words = ["--run.dir", f"{phase.folder.run}-again"]
        if phase.settings["model"]["init_from"] is not None and lines:
            words += ["--model.init_from", "previous"]
        config = shlex.quote(str(phase.folder.config))
        lines.append(f"python -m mv_lightning fit --config {config} \\\n    {shlex.join(words)}")
    return ["The same settings, in a new folder:", Code("\n".join(lines))]
