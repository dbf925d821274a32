"""Labelled solutions of questions with their log-odds, as predictions and validations leave
them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mv_lightning.artifacts.evaluations import read_evaluated
from mv_lightning.artifacts.predictions import Predictions, load_predicted
from mv_lightning.data.fingerprint import count_shared
from mv_lightning.data.sources import Source
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.metrics.consensus import Consensus, NoConsensusError, agreement, fit_consensus


@dataclass(frozen=True)
class Solutions:
    """Labelled solutions, of which several may belong to one question."""

    question_ids_N: np.ndarray
    """int64 [N], equal for solutions of the same question."""
    answers: Sequence[str]
    """N proposed answers."""
    labels_N: np.ndarray
    """bool [N]."""
    log_odds_N: np.ndarray
    """float64 [N], calibrated."""
    questions: Sequence[str]
    """The text of each distinct question."""

    @classmethod
    def of(cls, source: Source, rows_N: np.ndarray, log_odds_N: np.ndarray) -> Solutions:
        """Join log-odds with the rows of a source.

        Args:
            source: Labelled rows.
            rows_N: int64 [N], the source row of each log-odds.
            log_odds_N: float64 [N], calibrated.
        """
        assert source.labels_N is not None
        answers = source.table.select(rows_N)["answer"][:]
        question_ids_N = source.question_ids_N[rows_N]
        one_row_each = rows_N[np.unique(question_ids_N, return_index=True)[1]]
        questions = source.table.select(one_row_each)["question"]  # not read before it is needed
        return cls(question_ids_N, answers, source.labels_N[rows_N], log_odds_N, questions)

    @cached_property
    def agreement_N(self) -> np.ndarray:
        """float64 [N], see `consensus.agreement`."""
        return agreement(self.question_ids_N, self.answers)


def fit_stack(validation: Solutions, predicted: Solutions | None = None) -> Consensus:
    """Fit how much the votes of a question's solutions add to the log-odds of each of them.

    Args:
        validation: Solutions of validation questions.
        predicted: Solutions of other questions that the result is for; None for any.

    Raises:
        NoConsensusError: See `fit_consensus`; or no question of `predicted` has several solutions,
            or some of them are validation questions, where the result would look better than it is.
    """
    if predicted is not None and np.isnan(predicted.agreement_N).all():
        raise NoConsensusError("no predicted question has several solutions")
    consensus = fit_consensus(validation.labels_N, validation.log_odds_N, validation.agreement_N)
    if predicted is not None and (
        shared := count_shared(validation.questions, predicted.questions)
    ):
        raise NoConsensusError(
            f"expected other questions than those that it is fitted on, but {shared:,} of "
            f"{len(predicted.questions):,} predicted questions are among them"
        )
    return consensus


def predicted_solutions(
    predictions: Predictions, source: str, id_column: str | None = None
) -> Solutions:
    """Return the solutions that were predicted, without those that have no score.

    Args:
        predictions: As `predict` wrote them.
        source: The labelled rows that were predicted.
        id_column: As for `load_source`.

    Raises:
        ValueError: As for `load_predicted`.
    """
    loaded, rows_N = load_predicted(source, predictions.ids, id_column)
    has_score_N = ~np.isnan(predictions.log_odds_N)
    return Solutions.of(loaded, rows_N[has_score_N], predictions.log_odds_N[has_score_N])


def validated_solutions(path: Path, source: Source, calibration: Calibration) -> Solutions:
    """Return the validation rows of a phase.

    Args:
        path: Its `val.csv`, whose log-odds are not calibrated.
        source: The rows that the phase was trained from.
        calibration: Applied to the log-odds, as to those of the prediction.

    Raises:
        ValueError: The file cannot be read.
    """
    evaluated = read_evaluated(path)
    return Solutions.of(source, evaluated.rows_N, calibration.apply(evaluated.log_odds_N))
