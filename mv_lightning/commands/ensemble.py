"""`ensemble`: one prediction out of several, and whether it was worth it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
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
from mv_lightning.metrics.bootstrap import mean_interval
from mv_lightning.metrics.calibration import Calibration, fit_temperature
from mv_lightning.metrics.ensembling import fit_weights
from mv_lightning.metrics.scores import metric_values, score
from mv_lightning.reporting.blocks import Table
from mv_lightning.versioning import write_versioned_json

SUMMARY = "ensemble.json"
MIN_ROWS_PER_CLASS = 10
"""Validation rows of each class that weights and temperatures are fitted on, at least."""


@dataclass(frozen=True)
class EnsembleFit:
    """How members become one."""

    members: Sequence[Calibration]
    weights_M: np.ndarray
    """float64 [M], of sum 1: weights of the calibrated log-odds of M members."""
    whole: Calibration
    """Of the weighted average."""
    best: int | None = None
    """The member that judged the validation rows best: whom one would take if there were no ensemble."""


def run_ensemble(words: list[str]) -> None:
    """Average prediction files and write `submission.csv`, `probabilities.csv` and `ensemble.json`.

    Args:
        words: The command line after `ensemble`.

    Raises:
        ValueError: A file cannot be read, the files are not of the same rows, or too few rows are there to fit on.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mv_lightning ensemble",
        description="Average the log-odds of several predictions of the same rows.",
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="probabilities.csv of each member"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    parser.add_argument(
        "--labels", metavar="SOURCE", help="the predicted rows with labels: the gain is measured"
    )
    parser.add_argument(
        "--fit-weights",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="val.csv of each member's phase, in the same order: temperatures and weights are fitted on these rows; "
        "without, the log-odds are averaged as they stand",
    )
    parser.add_argument(
        "--val-labels",
        metavar="SOURCE",
        help="labelled rows of your own to fit on; --fit-weights then names each member's probabilities.csv of them",
    )
    options = parser.parse_args(words)
    if options.val_labels is not None and not options.fit_weights:
        raise ValueError("--val-labels names the rows of --fit-weights: give both, or neither")
    if options.fit_weights and len(options.fit_weights) != len(options.files):
        raise ValueError(
            f"{len(options.files)} prediction files but {len(options.fit_weights)} of validation rows: --fit-weights "
            "needs one per member, in the same order"
        )

    ids, log_odds_NM = _read(options.files)
    rows, members = log_odds_NM.shape
    mix = EnsembleFit([Calibration()] * members, np.full(members, 1 / members), Calibration())
    if options.fit_weights:
        if options.val_labels is None:
            val_labels_N, val_NM = _read_validation(options.fit_weights, options.files)
            mix = _fit(val_labels_N, None, val_NM)
        else:
            val_ids, val_NM = _read(options.fit_weights)
            mix = _fit(*_labels(options.val_labels, val_ids), val_NM)
    log_odds_NM = _calibrated(mix.members, log_odds_NM)
    mixed_N = mix.whole.apply(log_odds_NM @ mix.weights_M)

    summary: dict[str, Any] = {
        "rows": rows,
        "temperature": mix.whole.temperature,
        "members": [
            {"file": str(file), "weight": weight, "temperature": member.temperature}
            for file, weight, member in zip(
                options.files, mix.weights_M.tolist(), mix.members, strict=True
            )
        ],
    }
    if options.labels is not None:
        labels_N, question_ids_N = _labels(options.labels, ids)
        summary |= _compare(labels_N, log_odds_NM, mixed_N, question_ids_N, mix.best)
    write_predictions(RunFolder(options.out), ids, dict(enumerate(mixed_N.tolist())))
    write_versioned_json(options.out / SUMMARY, summary)
    print(_told(summary))
    print(f"\n{rows:,} rows, {members} members: {options.out}")


def _read(files: Sequence[Path]) -> tuple[Sequence[str], np.ndarray]:
    """IDs in the order of the first file, and the log-odds of all files in that order, [N, M]."""
    ids = read_predictions(files[0]).ids
    columns = [read_predictions(file).log_odds_of(ids, str(files[0])) for file in files]
    return ids, np.column_stack(columns)


def _labels(source: str, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and questions of the rows with these IDs, bool [N] and int64 [N]."""
    loaded, rows_N = load_predicted(source, ids)
    assert loaded.labels_N is not None
    return loaded.labels_N[rows_N], loaded.question_ids_N[rows_N]


def _read_validation(
    files: Sequence[Path], predicted: Sequence[Path]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and log-odds calibrated as those of the members' predictions are: phases leave them raw."""
    rows_N, labels_N, _ = read_evaluated(files[0])
    columns = []
    for file, member in zip(files, predicted, strict=True):
        rows_here_N, labels_here_N, log_odds_N = read_evaluated(file)
        if not (np.array_equal(rows_here_N, rows_N) and np.array_equal(labels_here_N, labels_N)):
            raise ValueError(
                f"{file} has other rows or labels than {files[0]}; needed are phases that were validated on the same "
                "rows: the same data.source, data.splits and data.phase"
            )
        columns.append(applied_calibration(member).apply(log_odds_N))
    return labels_N, np.column_stack(columns)


def _fit(
    labels_N: np.ndarray, question_ids_N: np.ndarray | None, val_NM: np.ndarray
) -> EnsembleFit:
    """Temperatures one by one, weights of what is calibrated, then the temperature of their average."""
    true = int(labels_N.sum())
    if min(true, len(labels_N) - true) < MIN_ROWS_PER_CLASS:
        raise ValueError(
            f"{true} True and {len(labels_N) - true} False validation rows: needed are at least {MIN_ROWS_PER_CLASS} of each to "
            "fit weights on. Validate on more rows (data.splits.val_fraction), name rows of your own with "
            "--val-labels, or leave out --fit-weights: the plain average needs no such rows"
        )
    calibrations = [
        Calibration(fit_temperature(labels_N, column_N, question_ids_N)) for column_N in val_NM.T
    ]
    calibrated_NM = _calibrated(calibrations, val_NM)
    weights_M = fit_weights(labels_N, calibrated_NM)
    whole = Calibration(fit_temperature(labels_N, calibrated_NM @ weights_M, question_ids_N))
    return EnsembleFit(calibrations, weights_M, whole, _best(labels_N, calibrated_NM))


def _best(labels_N: np.ndarray, log_odds_NM: np.ndarray) -> int:
    """The most accurate member; of several, the one of least log loss."""
    reached = [metric_values(labels_N, column_N) for column_N in log_odds_NM.T]
    return max(
        range(len(reached)),
        key=lambda place: (reached[place]["accuracy"], -reached[place]["log_loss"]),
    )


def _calibrated(calibrations: Sequence[Calibration], log_odds_NM: np.ndarray) -> np.ndarray:
    return np.column_stack(
        [one.apply(column_N) for one, column_N in zip(calibrations, log_odds_NM.T, strict=True)]
    )


def _compare(
    labels_N: np.ndarray,
    log_odds_NM: np.ndarray,
    mixed_N: np.ndarray,
    question_ids_N: np.ndarray,
    validated: int | None,
) -> dict[str, Any]:
    """Scores of all, and the gain over the best member: on validation rows, else (in hindsight) on these very rows."""
    best = _best(labels_N, log_odds_NM) if validated is None else validated
    right_N, best_N = ((odds_N > 0) == labels_N for odds_N in (mixed_N, log_odds_NM[:, best]))
    gain_N = right_N.astype(np.float64) - best_N
    return {
        "scores": [
            score(labels_N, column_N, question_ids_N=question_ids_N).to_json()
            for column_N in log_odds_NM.T
        ],
        "ensemble": score(labels_N, mixed_N, question_ids_N=question_ids_N).to_json(),
        "best": best,
        "best_on": "these rows" if validated is None else "validation rows",
        "gain": float(gain_N.mean()),
        "gain_interval": mean_interval(gain_N[:, None], question_ids_N)[0].tolist(),
    }


def _told(summary: dict[str, Any]) -> str:
    rows = [
        (one["file"], f"{one['weight']:.3f}", f"{one['temperature']:.2f}")
        for one in summary["members"]
    ]
    whole = ("ensemble", "", f"{summary['temperature']:.2f}")
    if "gain" not in summary:
        return Table(("", "weight", "temperature"), [*rows, whole]).markdown()
    shown = ("accuracy", "auroc", "log_loss")
    lines = [
        (*row, *(_number(scores["metrics"][name]["value"]) for name in shown))
        for row, scores in zip(
            [*rows, whole], [*summary["scores"], summary["ensemble"]], strict=True
        )
    ]
    low, high = (100 * end for end in summary["gain_interval"])
    return (
        Table(("", "weight", "temperature", *shown), lines).markdown()
        + f"\n\ngain in accuracy over {rows[summary['best']][0]}, the best single one on {summary['best_on']}: "
        f"{100 * summary['gain']:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})"
    )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
