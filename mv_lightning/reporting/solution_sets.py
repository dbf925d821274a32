"""Several solutions of a question together: how often one of them solves it, and what they say
about each other's labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mv_lightning.artifacts.solutions import Solutions
from mv_lightning.metrics.best_of_n import gains_over_majority, solve_rates
from mv_lightning.metrics.bootstrap import mean_with_interval
from mv_lightning.metrics.consensus import COMPARED, Consensus, compare
from mv_lightning.reporting.blocks import Table
from mv_lightning.reporting.phase_blocks import metric_title, with_interval

_PREDICTOR_TITLES = {
    "verdict": "verdict: one solution alone",
    "majority": "majority: the set of solutions",
    "stack": "stack: verdict and set",
}


def measure(
    solutions: Solutions,
    max_n: int | None = None,
    consensus: Consensus | None = None,
    threshold: float = 0.0,
) -> dict[str, Any]:
    """Measure the policies that pick a solution, and the predictors of a solution's label.

    Args:
        solutions: Of questions that nothing was fitted on.
        max_n: Solutions per question; None for as many as half of the questions have.
        consensus: For the stack; None for none.
        threshold: Log-odds above it are a verdict of True.

    Returns:
        Plain values: `questions`, `left_out` (questions with fewer solutions), `solve_rate` (number
        of solutions -> policy -> `value`, `interval`), and `gain_over_majority` with `max_n`
        solutions (policy -> the same, paired). With a consensus also `stack`: its `weights`, and
        what `consensus.compare` returns.

    Raises:
        ValueError: No question has so many solutions.
    """
    _, solutions_Q = np.unique(solutions.question_ids_N, return_counts=True)
    if max_n is None:
        max_n = int(np.quantile(solutions_Q, 0.5, method="higher"))
    labels_N, log_odds_N = solutions.labels_N, solutions.log_odds_N
    questions_N = solutions.question_ids_N
    rates = solve_rates(questions_N, solutions.answers, labels_N, log_odds_N, max_n, consensus)
    solve_rate: dict[str, dict[str, Any]] = {}
    for n in range(max_n):
        of_n = {policy: mean_with_interval(rates_QN[:, n]) for policy, rates_QN in rates.items()}
        solve_rate[str(n + 1)] = of_n
    questions = len(rates["random"])
    result = {
        "questions": questions,
        "left_out": len(solutions_Q) - questions,
        "solve_rate": solve_rate,
        "gain_over_majority": gains_over_majority(
            {policy: rates_QN[:, -1] for policy, rates_QN in rates.items()}
        ),
    }
    if consensus is not None:
        agreement_N = solutions.agreement_N
        compared = compare(consensus, labels_N, log_odds_N, agreement_N, questions_N, threshold)
        result["stack"] = {"weights": consensus.to_json(), **compared}
    return result


def report(result: Mapping[str, Any]) -> str:
    """Return the tables and the gains as text.

    Args:
        result: See `measure`.
    """
    last = len(result["solve_rate"])
    gains = []
    for policy, gain in result["gain_over_majority"].items():
        gains.append(f"{policy} {_points(gain)}")
    lines = [
        _solve_rate_table(result["solve_rate"]).markdown(),
        f"\nsolve rate of {result['questions']:,} questions with 95 % intervals; gain over the "
        f"majority with {last} solutions: {', '.join(gains)}",
    ]
    if result["left_out"]:
        lines.append(f"left out: {result['left_out']:,} questions with fewer solutions")
    if "stack" in result:
        lines += [
            f"\n{_predictor_table(result['stack']['predictors']).markdown()}",
            "\nlabels of single solutions, predicted from that solution or from all of its "
            f"question; accuracy of the stack over the verdict: "
            f"{_points(result['stack']['stack_gain'])}",
        ]
    return "\n".join(lines)


def _solve_rate_table(solve_rate: Mapping[str, Any]) -> Table:
    rows = []
    for n, policies in solve_rate.items():
        rows.append((n, *map(_percent, policies.values())))
    return Table(("solutions", *solve_rate["1"]), rows)


def _predictor_table(predictors: Mapping[str, Any]) -> Table:
    rows = []
    for name, metrics in predictors.items():
        cells = [with_interval(metrics[metric]) for metric in COMPARED]
        rows.append((_PREDICTOR_TITLES[name], *cells))
    return Table(("", *map(metric_title, COMPARED)), rows)


def _percent(rate: Mapping[str, Any]) -> str:
    low, high = rate["interval"]
    return f"{rate['value']:.1%} ({low:.1%}-{high:.1%})"


def _points(gain: Mapping[str, Any]) -> str:
    low, high = (100 * end for end in gain["interval"])
    return f"{100 * gain['value']:+.2f} points ({low:+.2f} to {high:+.2f})"
