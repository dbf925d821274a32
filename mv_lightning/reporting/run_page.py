"""The report page: everything about a run on one HTML page that needs no other file."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from mv_lightning.artifacts.calibrations import load_calibration
from mv_lightning.artifacts.curves import logged_curve
from mv_lightning.artifacts.evaluations import read_evaluated
from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.phase_results import STAGES, PhaseResults, load_rows
from mv_lightning.atomic import atomic_file
from mv_lightning.numerics import sigmoid
from mv_lightning.reporting.blocks import Block, Code, Folded, Picture, Section, html_page
from mv_lightning.reporting.phase_blocks import (
    adversarial_table,
    metrics_table,
    phase_tables,
    settings_tables,
    slices_table,
    splits_section,
)
from mv_lightning.reporting.results_table import missing_note, phase_table
from mv_lightning.schema import TEXT_COLUMNS
from mv_lightning.versioning import read_versioned_json

MISTAKES = 10
"""Mistakes shown with their texts."""


def write_run_page(run: Path, phases: Sequence[PhaseResults]) -> Path:
    """Write the report page of a run.

    Args:
        run: The run's folder.
        phases: Its finished phases, in order.

    Returns:
        The page's path.
    """
    sections = [
        Section("Results", list(_results(run, phases))),
        Section("Loss", list(_loss(run, phases))),
        *(_metrics(phase) for phase in phases),
        Section("Most confident mistakes", list(_mistakes(phases[-1]))),
        Section("Settings", [*settings_tables(phases), *_all_settings(phases)]),
        splits_section(phases[-1].manifest),
        Section("Environment", list(_environment(phases))),
        Section("To repeat", _repeat(phases)),
    ]
    page = RunFolder(run).report
    with atomic_file(page) as tmp_path:
        tmp_path.write_text(html_page(f"Run {run}", sections), encoding="utf-8")
    return page


def _results(run: Path, phases: Sequence[PhaseResults]) -> Iterator[Block]:
    yield phase_table([phase.summary for phase in phases])
    yield (
        "Loss, accuracy and AUROC are those of each phase's validation rows at its end. In the "
        "tables below, brackets hold 95 % intervals, for which the rows of one question are "
        "resampled together."
    )
    yield from _alarms(phases)
    prediction = RunFolder(run).prediction_summary
    if prediction.is_file():
        summary = read_versioned_json(prediction, "the summary of a prediction")
        accuracy = f", accuracy {summary['accuracy']:.3f}" if "accuracy" in summary else ""
        rows = f"{summary['rows']:,} rows{missing_note(summary)}"
        yield f"Predicted: {rows}{accuracy}, in {summary['submission']}."


def _alarms(phases: Sequence[PhaseResults]) -> list[str]:
    """Return each alarm once, with the last phase and stage that raised it."""
    alarms: dict[str, str] = {}
    for phase in phases:
        for stage, scores in phase.metrics.items():
            for alarm in (scores["alarm"], scores.get("adversarial", {}).get("alarm")):
                if alarm:
                    alarms[alarm] = f"{phase.name}, {STAGES[stage]}: {alarm}"
    return list(alarms.values())


def _loss(run: Path, phases: Sequence[PhaseResults]) -> Iterator[Block]:
    if importlib.util.find_spec("matplotlib") is None:
        yield "Not drawn: pip install 'mv-lightning[plots]'."
        return
    from mv_lightning.metrics.plots import PhaseLoss, loss_curve, save_png

    losses = []
    for phase in phases:
        train, val = (
            logged_curve(phase.folder, phase.settings, tag) for tag in ("train/loss", "val/loss")
        )
        if train:
            curves = (list(train), list(train.values()), list(val), list(val.values()))
            losses.append(PhaseLoss(phase.name, *curves))
    if not losses:
        yield (
            f"Not drawn: there are no TensorBoard files in {RunFolder(run).tensorboard}, and no "
            "single metrics.csv of a CSVLogger (trainer.logger)."
        )
        return
    file = RunFolder(run).plots / "loss.png"
    save_png(loss_curve(losses), file)
    yield Picture(file, "Training and validation loss over the phases")


def _metrics(phase: PhaseResults) -> Section:
    """Metrics, slices and figures of one phase."""
    title = f"{phase.name.capitalize()}: metrics"
    if not phase.metrics:
        return Section(
            title, [f"{phase.name.capitalize()} has no metrics.json: run validate or test on it."]
        )
    blocks: list[Block] = [metrics_table(phase.metrics)]
    for stage, scores in phase.metrics.items():
        stage_title = STAGES[stage].capitalize()
        blocks.append(Folded(f"{stage_title} by slices", [slices_table(scores["slices"])]))
        if "adversarial" in scores:
            checks = adversarial_table(scores["adversarial"])
            blocks.append(Folded(f"{stage_title}: rows that try to fool the verifier", [checks]))
        files = sorted(phase.folder.plots.glob(f"{stage}_*.png"))
        pictures = [Picture(file, f"{phase.name}, {STAGES[stage]}: {file.stem}") for file in files]
        blocks.append(Folded(f"{stage_title}: {len(pictures)} figures", pictures))
    return Section(title, blocks)


def _mistakes(phase: PhaseResults) -> Iterator[Block]:
    """The validation rows with the most confident wrong verdicts, with their texts."""
    file = phase.folder.evaluated_rows("val")
    if not file.is_file():
        yield f"Not shown: {file} is missing. The command validate writes it."
        return
    evaluated = read_evaluated(file)
    rows_N, labels_N, raw_N = evaluated.rows_N, evaluated.labels_N, evaluated.log_odds_N
    calibration = load_calibration(phase.folder.adapter)
    odds_N = calibration.apply(raw_N)
    probabilities_N = sigmoid(odds_N)
    margins_N = odds_N - calibration.threshold
    wrong_N = np.flatnonzero((margins_N > 0) != labels_N)
    worst = wrong_N[np.argsort(-np.abs(margins_N[wrong_N]), kind="stable")][:MISTAKES]
    yield (
        f"{len(wrong_N):,} of {len(rows_N):,} validation rows of {phase.name} get the wrong "
        "verdict. The most confident mistakes come first."
    )
    try:
        texts = load_rows(phase).table
    except ValueError as error:
        yield f"Their texts are not shown: {error}"
        texts = None
    for place in worst:
        row_id = evaluated.ids[place]
        name = f"Row {rows_N[place]}"
        if row_id != str(rows_N[place]):
            name += f" (ID {row_id})"
        title = (
            f"{name}: labelled {bool(labels_N[place])}, "
            f"probability of True {probabilities_N[place]:.3f}"
        )
        yield title if texts is None else Folded(title, _row_blocks(texts[int(rows_N[place])]))


def _row_blocks(row: Mapping[str, str]) -> list[Block]:
    blocks: list[Block] = []
    for name in TEXT_COLUMNS:
        blocks += [name.capitalize(), Code(row[name])]
    return blocks


def _all_settings(phases: Sequence[PhaseResults]) -> list[Block]:
    blocks: list[Block] = []
    for phase in phases:
        settings = Code(phase.folder.config.read_text(encoding="utf-8"))
        blocks.append(Folded(f"All settings of {phase.name}", [settings]))
    return blocks


def _environment(phases: Sequence[PhaseResults]) -> Iterator[Block]:
    environments = {}
    for phase in phases:
        if "environment" in phase.summary:
            environments[phase.name] = phase.summary["environment"]
    if not environments:
        yield "Unknown: the summaries of this run do not record it."
        return
    yield from phase_tables(environments)


def _repeat(phases: Sequence[PhaseResults]) -> list[Block]:
    lines: list[str] = []
    for phase in phases:
        args = ["--run.dir", f"{phase.folder.run}-again"]
        if phase.settings["model"]["init_from"] is not None and lines:
            args += ["--model.init_from", "previous"]
        config = shlex.quote(str(phase.folder.config))
        lines.append(f"python -m mv_lightning fit --config {config} \\\n    {shlex.join(args)}")
    return ["The same settings, in a new folder:", Code("\n".join(lines))]
