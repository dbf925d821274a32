"""`best-of-n`: how many questions are solved when the verifier picks among several solutions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mv_lightning.artifacts.phase_results import load_rows, read_phase
from mv_lightning.artifacts.predictions import applied_calibration, read_predictions
from mv_lightning.artifacts.solutions import (
    Solutions,
    fit_stack,
    predicted_solutions,
    validated_solutions,
)
from mv_lightning.commands.options import (
    add_options,
    build,
    command_parser,
    local_path,
    parse_options,
)
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.metrics.consensus import Consensus, NoConsensusError
from mv_lightning.reporting.solution_sets import measure, report
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
    fit_stack: Path | None = None
    """The val.csv of the phase that predicted: how much the share of a question's other solutions
    with the same answer adds to the log-odds is fitted on these rows."""
    val_labels: str | None = None
    """Labelled rows to fit on in place of the phase's validation rows; fit_stack then names their
    probabilities.csv."""
    out: Path | None = None
    """JSON file of the result; default: best_of_n.json beside the probabilities."""

    def __post_init__(self) -> None:
        if self.val_labels is not None and self.fit_stack is None:
            raise ValueError(
                "--val-labels names the rows of --fit-stack. Give both options, or neither"
            )


def run(args: list[str]) -> None:
    """Print the solve rates with 1, 2, ... solutions per question, and write them as JSON.

    Args:
        args: The command line after `best-of-n`.

    Raises:
        ValueError: The predictions are not of these rows, no question has enough solutions, or the
            validation rows cannot be read.
    """
    parser = command_parser(
        "best-of-n",
        "Solve rate when one of several solutions of a question is picked: at random, by majority, "
        "by a vote weighted with the probabilities, by the highest probability (best of N), by a "
        "stack of log-odds and votes (with --fit-stack), by an oracle.",
    )
    parser.add_argument("probabilities", metavar="FILE", help="probabilities.csv of the rows")
    add_options(parser, "predict", PredictedRows, short={"source": "--source"})
    add_options(parser, "best_of_n", BestOfNOptions)
    values = parse_options(parser, args)
    options = build(BestOfNOptions, values.best_of_n)
    rows = build(PredictedRows, values.predict)
    path = local_path(values.probabilities)
    predictions = read_predictions(path)
    solutions = predicted_solutions(predictions, rows.source, rows.id_column)
    calibration = Calibration()
    if options.fit_stack is not None and options.val_labels is None:
        calibration = applied_calibration(path)
    consensus, reason = _fit(options, calibration, solutions)
    result = measure(solutions, options.max_n, consensus, calibration.threshold)
    result["missing_rows"] = predictions.n_missing
    if reason is not None:
        result["no_stack"] = reason
    out = options.out or path.with_name(RESULT_FILE)
    write_versioned_json(out, result)
    print(report(result))
    if predictions.n_missing:
        print(f"left out: {predictions.n_missing:,} rows without a probability")
    if reason is not None:
        print(f"no stack: {reason}")
    print(f"written to {out}")


def _fit(
    options: BestOfNOptions, calibration: Calibration, predicted: Solutions
) -> tuple[Consensus | None, str | None]:
    """Return the consensus, or why there is none; neither if it is not asked for."""
    if options.fit_stack is None:
        return None, None
    validation = _validation(options.fit_stack, options.val_labels, calibration)
    try:
        return fit_stack(validation, predicted), None
    except NoConsensusError as error:
        return None, str(error)


def _validation(path: Path, labels: str | None, calibration: Calibration) -> Solutions:
    if labels is not None:
        return predicted_solutions(read_predictions(path), labels)
    return validated_solutions(path, load_rows(read_phase(path.parent)), calibration)
