"""Solutions keep their rows together, and those without a score are left out."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.predictions import read_predictions, write_predictions
from mv_lightning.artifacts.solutions import (
    Solutions,
    fit_stack,
    predicted_solutions,
    validated_solutions,
)
from mv_lightning.data.sources import load_source
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.metrics.consensus import NoConsensusError, agreement, fit_consensus

QUESTIONS = list("abbacab")
ANSWERS = ["1", "$2", "3", "1.0", "4", "5", "2.0"]
LABELS = [True, False, True, True, False, False, False]
LOG_ODDS = [0.5, -1.0, 2.0, 1.5, -0.25, math.nan, -2.0]


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    lines = []
    for row, question in enumerate(QUESTIONS):
        texts = {"question": question, "answer": ANSWERS[row], "solution": ""}
        lines.append(json.dumps({"id": f"r{row}", **texts, "is_correct": LABELS[row]}) + "\n")
    path.write_text("".join(lines))
    return str(path)


def test_predicted_rows_are_matched_by_id_and_those_without_a_score_left_out(
    source: str, tmp_path: Path
) -> None:
    order = [3, 5, 0, 6, 2, 1, 4]
    log_odds_N = np.array([LOG_ODDS[row] for row in order])
    ids = [f"r{row}" for row in order]
    write_predictions(RunFolder(tmp_path), ids, log_odds_N)
    predictions = read_predictions(tmp_path / "probabilities.csv")
    solutions = predicted_solutions(predictions, source)
    kept = [3, 0, 6, 2, 1, 4]
    assert list(solutions.answers) == [ANSWERS[row] for row in kept]
    assert solutions.labels_N.tolist() == [LABELS[row] for row in kept]
    assert solutions.log_odds_N.tolist() == [LOG_ODDS[row] for row in kept]
    # The missing row of question a is no sibling of the others; row 4 has none.
    expected = [1, 1, 0.5, 0, 0.5, math.nan]
    assert solutions.agreement_N.tolist() == pytest.approx(expected, nan_ok=True)


def test_validated_rows_are_calibrated(source: str, tmp_path: Path) -> None:
    lines = ["id,row,is_correct,log_odds", "r6,6,False,-3.0", "r2,2,True,1.0", "r1,1,False,4.0"]
    (tmp_path / "val.csv").write_text("\n".join(lines) + "\n")
    validated = validated_solutions(tmp_path / "val.csv", load_source(source), Calibration(2.0))
    assert list(validated.answers) == ["$2", "3", "2.0"]
    assert validated.log_odds_N.tolist() == [2.0, 0.5, -1.5]
    agreement_N = agreement(np.zeros(3, dtype=int), ["2", "3", "2"])
    expected = fit_consensus(validated.labels_N, validated.log_odds_N, agreement_N)
    assert fit_stack(validated) == expected
    others = dataclasses.replace(validated, questions=["c"])
    assert fit_stack(validated, others) == expected


def test_a_stack_needs_predicted_questions_with_several_solutions() -> None:
    labels_N, log_odds_N = np.array([True, False]), np.array([1.0, -1.0])
    validation = Solutions(np.zeros(2, dtype=int), ["1", "2"], labels_N, log_odds_N, ["a"])
    single = Solutions(np.arange(2), ["1", "2"], labels_N, log_odds_N, ["b", "c"])
    with pytest.raises(NoConsensusError, match="no predicted question has several solutions"):
        fit_stack(validation, single)


def test_a_stack_is_not_applied_to_the_questions_it_is_fitted_on(
    source: str, tmp_path: Path
) -> None:
    loaded, log_odds_N = load_source(source), np.array([0.5, -1.0, 2.0, 1.5, -0.25, 0.0, -2.0])
    everything = Solutions.of(loaded, np.arange(7), log_odds_N)
    assert sorted(everything.questions) == ["a", "b", "c"]
    some = Solutions.of(loaded, np.array([6, 2, 1]), log_odds_N[[6, 2, 1]])
    assert list(some.questions) == ["b"]
    others = dataclasses.replace(everything, questions=["x", " B ", "y"])
    with pytest.raises(NoConsensusError, match="but 1 of 3 predicted questions are"):
        fit_stack(some, others)
