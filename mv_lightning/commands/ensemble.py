"""`ensemble`: one prediction made of several, and its gain over the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.artifacts.evaluations import read_evaluated
from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.predictions import (
    applied_calibration,
    load_predicted,
    read_predictions,
    write_predictions,
)
from mv_lightning.commands.options import (
    add_options,
    build,
    command_parser,
    local_path,
    parse_options,
)
from mv_lightning.metrics.ensembling import (
    EnsembleFit,
    compare_with_members,
    fit_ensemble,
    plain_average,
)
from mv_lightning.reporting.blocks import Table
from mv_lightning.versioning import write_versioned_json

SUMMARY_FILE = "ensemble.json"
SHOWN = ("accuracy", "auroc", "log_loss")
"""Metrics in the table."""


@dataclass(frozen=True)
class PredictedRows:
    """The rows of the predictions."""

    source: str | None = None
    """The predicted rows, with labels: the gain over the best member is then measured."""
    id_column: str | None = None
    """Column of the source that has the IDs of the predictions; default: found by name, as by
    predict."""


@dataclass(frozen=True)
class EnsembleOptions:
    """Options of the command."""

    out: Path
    """Folder of the files."""
    fit_weights: list[Path] = field(default_factory=list)
    """The val.csv of each member's phase, in the order of FILE: temperatures and weights are fitted
    on these rows. Without it the log-odds are averaged as they are."""
    val_labels: str | None = None
    """Labelled rows to fit on in place of the phases' validation rows; fit_weights then names each
    member's probabilities.csv of them."""

    def __post_init__(self) -> None:
        if self.val_labels is not None and not self.fit_weights:
            raise ValueError(
                "--val-labels names the rows of --fit-weights. Give both options, or neither"
            )


def run(args: list[str]) -> None:
    """Average prediction files and write `submission.csv`, `probabilities.csv` and `ensemble.json`.

    Args:
        args: The command line after `ensemble`.

    Raises:
        ValueError: A file cannot be read, the files are not of the same rows, or there are too
            few rows to fit on.
    """
    parser = command_parser(
        "ensemble", "Average the log-odds of several predictions of the same rows."
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="probabilities.csv of each member",
    )
    add_options(parser, "ensemble", EnsembleOptions)
    add_options(parser, "predict", PredictedRows, short={"source": "--labels"})
    values = parse_options(parser, args)
    options = build(EnsembleOptions, values.ensemble)
    files = [local_path(file) for file in values.files]
    ids, log_odds_NM = _read_predictions(files)
    fit = _fit(options, files)
    summary = _summary(fit, files, log_odds_NM)
    if values.predict.source is not None:
        labels_N, question_ids_N = _labels(values.predict.source, ids, values.predict.id_column)
        summary |= compare_with_members(labels_N, log_odds_NM, question_ids_N, fit)
    average_N = fit.average(log_odds_NM)
    write_predictions(RunFolder(options.out), ids, dict(enumerate(average_N.tolist())))
    write_versioned_json(options.out / SUMMARY_FILE, summary)
    print(_members_table(summary).markdown())
    if "gain" in summary:
        print(f"\n{_gain(summary)}")
    print(f"\n{len(files)} members, {len(log_odds_NM):,} rows; written to {options.out}")


def _read_predictions(files: Sequence[Path]) -> tuple[Sequence[str], np.ndarray]:
    """Return the IDs in the order of the first file, and all log-odds in that order, [N, M]."""
    ids = read_predictions(files[0]).ids
    columns = [read_predictions(file).log_odds_of(ids, str(files[0])) for file in files]
    return ids, np.column_stack(columns)


def _labels(
    source: str, ids: Sequence[str], id_column: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and questions of the rows with these IDs, bool [N] and int64 [N]."""
    loaded, rows_N = load_predicted(source, ids, id_column)
    assert loaded.labels_N is not None
    return loaded.labels_N[rows_N], loaded.question_ids_N[rows_N]


def _fit(options: EnsembleOptions, files: Sequence[Path]) -> EnsembleFit:
    if not options.fit_weights:
        return plain_average(len(files))
    if len(options.fit_weights) != len(files):
        raise ValueError(
            "--fit-weights expects one file per member, in the same order, got "
            f"{len(options.fit_weights)} for {len(files)} members"
        )
    if options.val_labels is None:
        return fit_ensemble(*_read_validation(options.fit_weights, files))
    ids, log_odds_NM = _read_predictions(options.fit_weights)
    labels_N, question_ids_N = _labels(options.val_labels, ids)
    return fit_ensemble(labels_N, log_odds_NM, question_ids_N)


def _read_validation(
    files: Sequence[Path], predictions: Sequence[Path]
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and log-odds that are calibrated as the predictions are: a phase stores raw
    ones."""
    first = read_evaluated(files[0])
    columns = []
    for file, prediction in zip(files, predictions, strict=True):
        log_odds_N = read_evaluated(file).log_odds_of(first)
        columns.append(applied_calibration(prediction).apply(log_odds_N))
    return first.labels_N, np.column_stack(columns)


def _summary(fit: EnsembleFit, files: Sequence[Path], log_odds_NM: np.ndarray) -> dict[str, Any]:
    members = []
    for file, weight, calibration in zip(files, fit.weights_M.tolist(), fit.members, strict=True):
        temperature = calibration.temperature
        members.append({"file": str(file), "weight": weight, "temperature": temperature})
    return {
        "rows": len(log_odds_NM),
        "temperature": fit.ensemble.temperature,
        "members": members,
    }


def _members_table(summary: dict[str, Any]) -> Table:
    rows = []
    for member in summary["members"]:
        rows.append((member["file"], f"{member['weight']:.3f}", f"{member['temperature']:.2f}"))
    rows.append(("ensemble", "", f"{summary['temperature']:.2f}"))
    head = ("", "weight", "temperature")
    if "gain" not in summary:
        return Table(head, rows)
    scored = []
    for row, scores in zip(rows, [*summary["scores"], summary["ensemble"]], strict=True):
        metrics = scores["metrics"]
        scored.append((*row, *(_number(metrics[name]["value"]) for name in SHOWN)))
    return Table((*head, *SHOWN), scored)


def _gain(summary: dict[str, Any]) -> str:
    low, high = (100 * end for end in summary["gain_interval"])
    best = summary["members"][summary["best"]]["file"]
    return (
        f"gain in accuracy over {best}, the best member on {summary['best_on']}: "
        f"{100 * summary['gain']:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})"
    )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
