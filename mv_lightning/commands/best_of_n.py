"""`best-of-n`: how many questions are solved when the verifier picks among several solutions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.artifacts.predictions import load_predicted, read_predictions
from mv_lightning.commands.options import (
    add_options,
    build,
    command_parser,
    local_path,
    parse_options,
)
from mv_lightning.metrics.best_of_n import solve_rates
from mv_lightning.metrics.bootstrap import mean_interval
from mv_lightning.reporting.blocks import Table
from mv_lightning.versioning import write_versioned_json

RESULT_FILE = "best_of_n.json"


@dataclass(frozen=True)
class PredictedRows:
    """The rows of the probabilities."""

    source: str
    """The rows that were predicted, with labels and several solutions for each question."""
    id_column: str | None = None
    """Column of the source that has the IDs of the predictions; default: found by name, as by
    predict."""


@dataclass(frozen=True)
class BestOfNOptions:
    """Options of the command."""

    max_n: int | None = None
    """Solutions per question; questions with fewer are left out. Default: as many as half of the
    questions have."""
    out: Path | None = None
    """JSON file of the result; default: best_of_n.json beside the probabilities."""


def run(args: list[str]) -> None:
    """Print the solve rates with 1, 2, ... solutions per question, and write them as JSON.

    Args:
        args: The command line after `best-of-n`.

    Raises:
        ValueError: The predictions are not of these rows, or no question has enough solutions.
    """
    parser = command_parser(
        "best-of-n",
        "Solve rate when one of several solutions of a question is picked: at random, by majority, "
        "by a vote weighted with the probabilities, by the highest probability (best of N), by an "
        "oracle.",
    )
    parser.add_argument("probabilities", metavar="FILE", help="probabilities.csv of the rows")
    add_options(parser, "predict", PredictedRows, short={"source": "--source"})
    add_options(parser, "best_of_n", BestOfNOptions)
    values = parse_options(parser, args)
    options = build(BestOfNOptions, values.best_of_n)
    probabilities = local_path(values.probabilities)
    rows = build(PredictedRows, values.predict)
    result = measure(probabilities, rows, options.max_n)
    out = options.out or probabilities.with_name(RESULT_FILE)
    write_versioned_json(out, result)
    print(result_table(result).markdown())
    print(f"\nsolve rate of {result['questions']:,} questions with 95 % intervals")
    if result["left_out"]:
        print(f"left out: {result['left_out']:,} questions with fewer solutions (--max-n)")
    print(f"written to {out}")


def measure(probabilities: Path, rows: PredictedRows, max_n: int | None) -> dict[str, Any]:
    """Return the solve rates as plain values.

    Args:
        probabilities: Prediction file of the rows.
        rows: The rows, with labels.
        max_n: Solutions per question; None for as many as half of the questions have.

    Returns:
        `questions`, `left_out`, and `solve_rate`: number of solutions -> policy -> `value`,
        `interval`.

    Raises:
        ValueError: As for the command.
    """
    predictions = read_predictions(probabilities)
    loaded, rows_N = load_predicted(rows.source, predictions.ids, rows.id_column)
    assert loaded.labels_N is not None
    solutions_Q = np.bincount(loaded.question_ids_N)
    if max_n is None:
        max_n = int(np.quantile(solutions_Q, 0.5, method="higher"))
    rates = solve_rates(
        loaded.question_ids_N[rows_N],
        loaded.table.select(rows_N)["answer"][:],
        loaded.labels_N[rows_N],
        predictions.log_odds_N,
        max_n,
    )
    solve_rate: dict[str, dict[str, Any]] = {str(n): {} for n in range(1, max_n + 1)}
    for policy, rates_QN in rates.items():
        values, intervals = rates_QN.mean(axis=0).tolist(), mean_interval(rates_QN).tolist()
        for n, (value, interval) in enumerate(zip(values, intervals, strict=True), 1):
            solve_rate[str(n)][policy] = {"value": value, "interval": interval}
    questions = len(rates["random"])
    return {
        "questions": questions,
        "left_out": len(solutions_Q) - questions,
        "solve_rate": solve_rate,
    }


def result_table(result: dict[str, Any]) -> Table:
    """Return a row for each number of solutions.

    Args:
        result: See `measure`.
    """
    rows = []
    for n, policies in result["solve_rate"].items():
        rows.append((n, *(_with_interval(**rate) for rate in policies.values())))
    return Table(("solutions", *result["solve_rate"]["1"]), rows)


def _with_interval(value: float, interval: list[float]) -> str:
    low, high = interval
    return f"{value:.1%} ({low:.1%}-{high:.1%})"
