"""`rank`: how many questions are solved when the verifier picks among several solutions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.artifacts.predictions import load_predicted, read_predictions
from mv_lightning.atomic import write_json
from mv_lightning.metrics.best_of_n import solve_rates
from mv_lightning.metrics.bootstrap import mean_interval
from mv_lightning.reporting.blocks import Table

RANKING = "ranking.json"


def run_best_of_n(words: list[str]) -> None:
    """Print the solve rates with 1, 2, ... solutions a question, and write them as JSON.

    Args:
        words: The command line after `rank`.

    Raises:
        ValueError: The predictions are not of these rows, or no question has enough solutions.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mv_lightning best-of-n",
        description="Solve rate when one of several solutions of a question is picked: at random, by majority, by a "
        "vote weighted with the probabilities, by the highest probability (best of N), by an oracle.",
    )
    parser.add_argument(
        "probabilities", type=Path, metavar="FILE", help="probabilities.csv of the rows"
    )
    parser.add_argument(
        "--source", required=True, help="these rows, labelled, several for each question"
    )
    parser.add_argument(
        "--most",
        type=int,
        metavar="N",
        help="solutions a question; questions with fewer are left out. Default: as many as half of the questions have",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"default: {RANKING} beside the probabilities"
    )
    options = parser.parse_args(words)

    predictions = read_predictions(options.probabilities)
    source, rows_N = load_predicted(options.source, predictions.ids)
    assert source.labels_N is not None
    solutions_Q = np.bincount(source.question_ids_N)
    most = (
        int(np.quantile(solutions_Q, 0.5, method="higher"))
        if options.most is None
        else options.most
    )
    rates = solve_rates(
        source.question_ids_N[rows_N],
        source.table.select(rows_N)["answer"][:],
        source.labels_N[rows_N],
        predictions.log_odds_N,
        most,
    )
    solve_rate: dict[str, dict[str, Any]] = {str(size): {} for size in range(1, most + 1)}
    for policy, rates_QN in rates.items():
        values, intervals = rates_QN.mean(axis=0).tolist(), mean_interval(rates_QN).tolist()
        for size, (value, interval) in enumerate(zip(values, intervals, strict=True), 1):
            solve_rate[str(size)][policy] = {"value": value, "interval": interval}
    questions = len(rates["random"])
    left_out = len(solutions_Q) - questions
    out = options.out or options.probabilities.with_name(RANKING)
    write_json(out, {"questions": questions, "left_out": left_out, "solve_rate": solve_rate})
    lines = [
        (
            size,
            *(
                f"{one['value']:.1%} ({one['interval'][0]:.1%}-{one['interval'][1]:.1%})"
                for one in row.values()
            ),
        )
        for size, row in solve_rate.items()
    ]
    print(Table(("solutions", *rates), lines).markdown())
    print(
        f"\nsolve rate of {questions:,} questions with 95 % interval; {left_out:,} with fewer than {most} solutions "
        f"are left out: {out}"
    )
