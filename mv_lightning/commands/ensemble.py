"""`ensemble`: one prediction made of several, and its gain over the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.artifacts.evaluations import read_evaluated
from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.phase_results import load_rows, read_phase
from mv_lightning.artifacts.predictions import (
    MISSING_VERDICT,
    applied_calibration,
    load_predicted,
    read_predictions,
    write_predictions,
)
from mv_lightning.artifacts.solutions import Solutions, fit_stack
from mv_lightning.commands.options import (
    add_options,
    build,
    command_parser,
    local_path,
    parse_options,
)
from mv_lightning.data.sources import Source
from mv_lightning.metrics.ensembling import (
    EnsembleFit,
    compare_with_members,
    fit_ensemble,
    plain_average,
)
from mv_lightning.reporting.blocks import Table
from mv_lightning.reporting.solution_sets import measure, report
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
    validation = _read_validation(options, files)
    fit = _fit(validation, len(files))
    summary = _summary(fit, files, log_odds_NM)
    if values.predict.source is not None:
        loaded = load_predicted(values.predict.source, ids, values.predict.id_column)
        summary |= _compare(*loaded, log_odds_NM, fit, validation)
    average_N = fit.average(log_odds_NM)  # nan where a member has no score
    write_predictions(RunFolder(options.out), ids, average_N)
    write_versioned_json(options.out / SUMMARY_FILE, summary)
    _print_summary(summary)
    print(f"\nmembers: {len(files)}, rows: {len(log_odds_NM):,}; written to {options.out}")


def _read_predictions(files: Sequence[Path]) -> tuple[Sequence[str], np.ndarray]:
    """Return the IDs in the order of the first file, and all log-odds in that order, [N, M]; nan
    where a member has no score."""
    ids = read_predictions(files[0]).ids
    columns = [read_predictions(file).log_odds_of(ids, str(files[0])) for file in files]
    log_odds_NM = np.column_stack(columns)
    if not _has_scores(log_odds_NM).any():
        raise ValueError(
            "expected rows that have a probability of every member, got none in "
            f"{', '.join(map(str, files))}. Predict with a larger data.max_length"
        )
    return ids, log_odds_NM


@dataclass(frozen=True)
class _Validation:
    """Labelled rows that weights are fitted on."""

    labels_N: np.ndarray
    log_odds_NM: np.ndarray
    """float64 [N, M], calibrated as the predictions are."""
    rows_N: np.ndarray
    """int64 [N], their numbers in the source."""
    source: Source | Path
    """Or the folder of a phase that names it: the weights need what the phase has stored, no more.
    """

    def solutions(self, fit: EnsembleFit) -> Solutions:
        """Return the rows with the log-odds of the ensemble.

        Raises:
            ValueError: The source of the phase cannot be read here.
        """
        source = self.source
        if isinstance(source, Path):
            source = load_rows(read_phase(source))
        return Solutions.of(source, self.rows_N, fit.average(self.log_odds_NM))


def _read_validation(options: EnsembleOptions, files: Sequence[Path]) -> _Validation | None:
    if not options.fit_weights:
        return None
    if len(options.fit_weights) != len(files):
        raise ValueError(
            "--fit-weights expects one file per member, in the same order, got "
            f"{len(options.fit_weights)} for {len(files)} members"
        )
    if options.val_labels is None:
        return _read_phases(options.fit_weights, files)
    ids, log_odds_NM = _read_predictions(options.fit_weights)
    source, rows_N = load_predicted(options.val_labels, ids)
    assert source.labels_N is not None
    has_scores_N = _has_scores(log_odds_NM)
    rows_N = rows_N[has_scores_N]
    return _Validation(source.labels_N[rows_N], log_odds_NM[has_scores_N], rows_N, source)


def _read_phases(files: Sequence[Path], predictions: Sequence[Path]) -> _Validation:
    """Read the validation rows of phases, and calibrate them as the predictions are: a phase stores
    raw log-odds."""
    first = read_evaluated(files[0])
    columns = []
    for file, prediction in zip(files, predictions, strict=True):
        log_odds_N = read_evaluated(file).log_odds_of(first)
        columns.append(applied_calibration(prediction).apply(log_odds_N))
    return _Validation(first.labels_N, np.column_stack(columns), first.rows_N, files[0].parent)


def _fit(validation: _Validation | None, members: int) -> EnsembleFit:
    if validation is None:
        return plain_average(members)
    questions_N = None
    if isinstance(validation.source, Source):
        questions_N = validation.source.question_ids_N[validation.rows_N]
    return fit_ensemble(validation.labels_N, validation.log_odds_NM, questions_N)


def _has_scores(log_odds_NM: np.ndarray) -> np.ndarray:
    """Whether every member has a score for the row, bool [N]."""
    return ~np.isnan(log_odds_NM).any(axis=1)


def _compare(
    source: Source,
    rows_N: np.ndarray,
    log_odds_NM: np.ndarray,
    fit: EnsembleFit,
    validation: _Validation | None,
) -> dict[str, Any]:
    """Return the scores of members and ensemble on labelled rows and, where weights were fitted,
    what the solutions of a question say together."""
    has_scores_N = _has_scores(log_odds_NM)
    rows_N, log_odds_NM = rows_N[has_scores_N], log_odds_NM[has_scores_N]
    solutions = Solutions.of(source, rows_N, fit.average(log_odds_NM))
    labels_N, questions_N = solutions.labels_N, solutions.question_ids_N
    compared = compare_with_members(labels_N, log_odds_NM, questions_N, fit)
    if validation is None:
        return compared
    try:
        consensus = fit_stack(validation.solutions(fit), solutions)
    except ValueError as error:  # also where the source of the phases cannot be read here
        return {**compared, "no_stack": str(error)}
    return {**compared, "solutions": measure(solutions, consensus=consensus)}


def _summary(fit: EnsembleFit, files: Sequence[Path], log_odds_NM: np.ndarray) -> dict[str, Any]:
    members = []
    for file, weight, calibration in zip(files, fit.weights_M.tolist(), fit.members, strict=True):
        temperature = calibration.temperature
        members.append({"file": str(file), "weight": weight, "temperature": temperature})
    return {
        "rows": len(log_odds_NM),
        "missing_rows": int(np.count_nonzero(~_has_scores(log_odds_NM))),
        "temperature": fit.ensemble.temperature,
        "members": members,
    }


def _print_summary(summary: dict[str, Any]) -> None:
    print(_members_table(summary).markdown())
    if summary["missing_rows"]:
        print(
            f"\n{summary['missing_rows']:,} rows have no probability of some member, and so none "
            f"of the ensemble; their verdict is {MISSING_VERDICT}"
        )
    if "gain" in summary:
        print(f"\n{_gain(summary)}")
    if "solutions" in summary:
        print(f"\n{report(summary['solutions'])}")
    if "no_stack" in summary:
        print(f"\nno stack: {summary['no_stack']}")


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
