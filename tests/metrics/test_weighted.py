"""The formulas equal torchmetrics', for plain rows and for resamples given by weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import functional as tm
from torchmetrics.functional import classification as binary

from mv_lightning.metrics.weighted import ECE_BINS, weighted_metrics


def reference(labels_N: np.ndarray, verdicts_N: np.ndarray, log_odds_N: np.ndarray) -> dict:  # type: ignore[type-arg]
    """torchmetrics, and nan where a denominator is zero (it gives 0 or a guess there)."""
    truth, verdicts = torch.from_numpy(labels_N).long(), torch.from_numpy(verdicts_N).long()
    log_odds = torch.from_numpy(log_odds_N)
    probabilities = log_odds.sigmoid()
    _, ranks_N = np.unique(log_odds_N, return_inverse=True)
    ranks = torch.from_numpy(ranks_N / max(1, len(ranks_N)))
    rows, true, predicted = len(labels_N) > 0, bool(labels_N.any()), bool(verdicts_N.any())
    both = true and not labels_N.all()
    recall = binary.binary_recall(verdicts, truth)
    specificity = binary.binary_specificity(verdicts, truth)
    values = {
        "accuracy": (rows, binary.binary_accuracy(verdicts, truth)),
        "balanced_accuracy": (both, (recall + specificity) / 2),
        "precision": (predicted, binary.binary_precision(verdicts, truth)),
        "recall": (true, recall),
        "f1": (true or predicted, binary.binary_f1_score(verdicts, truth)),
        "mcc": (
            both and predicted and not verdicts_N.all(),
            binary.binary_matthews_corrcoef(verdicts, truth),
        ),
        "auroc": (both, binary.binary_auroc(ranks, truth)),
        "average_precision": (true, binary.binary_average_precision(ranks, truth)),
        "brier": (rows, tm.mean_squared_error(probabilities, truth.double())),
        "ece": (rows, binary.binary_calibration_error(probabilities, truth, n_bins=ECE_BINS)),
        "log_loss": (
            rows,
            torch.nn.functional.binary_cross_entropy_with_logits(log_odds, truth.double()),
        ),
    }
    return {
        name: float(value) if defined else math.nan for name, (defined, value) in values.items()
    }


@settings(max_examples=60, deadline=None)
@given(
    many=st.integers(1, 40),
    seed=st.integers(0, 10_000),
    ties=st.booleans(),
    threshold=st.sampled_from([0.0, 0.7]),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_are_repetitions_of_rows(
    many: int, seed: int, ties: bool, threshold: float
) -> None:
    """Rows that count several times equal their copies written out, and 0 times none."""
    rng = np.random.default_rng(seed)
    labels_N = rng.random(many) < 0.4
    log_odds_N = rng.normal(0, 2, many) + 1.5 * (labels_N - 0.5)
    if ties:
        log_odds_N = np.round(log_odds_N)
    verdicts_N = log_odds_N > threshold
    weights_RN = rng.multinomial(many, np.full(many, 1 / many), size=3).astype(float)
    weights_RN[0] = 1
    metrics = weighted_metrics(labels_N, verdicts_N, log_odds_N, weights_RN)
    for draw, weights_N in enumerate(weights_RN.astype(int)):
        taken = np.repeat(np.arange(many), weights_N)
        values = {name: float(values_R[draw]) for name, values_R in metrics.items()}
        assert math.isnan(values.pop("auroc_within_question"))
        expected = reference(labels_N[taken], verdicts_N[taken], log_odds_N[taken])
        assert values == pytest.approx(expected, abs=1e-6, nan_ok=True)


def within(
    labels: list[int],
    log_odds: list[float],
    questions: list[int],
    weights: list[float] | None = None,
) -> float:
    labels_N, log_odds_N = np.array(labels, dtype=bool), np.array(log_odds, dtype=float)
    weights_1N = np.array([weights or np.ones(len(labels))])
    metrics = weighted_metrics(
        labels_N, log_odds_N > 0, log_odds_N, weights_1N, np.array(questions)
    )
    return float(metrics["auroc_within_question"][0])


def test_auroc_within_questions_by_hand() -> None:
    """Question 5: True 2 and 0 against False 1, 0: right, right, wrong, tie. Question 3: right."""
    labels, log_odds = [1, 0, 1, 0, 1, 0], [2, 1, 0, 0, -5, -6]
    questions = [5, 5, 5, 5, 3, 3]
    assert within(labels, log_odds, questions) == pytest.approx((2 + 0.5 + 1) / 5)
    assert within(labels, log_odds, questions, [2, 2, 2, 2, 0, 0]) == pytest.approx(2.5 / 4)
    assert within(labels, log_odds, questions, [1, 1, 1, 1, 3, 3]) == pytest.approx(5.5 / 7)


def test_auroc_within_questions_ignores_which_questions_are_hard() -> None:
    """Log-odds that state the question's share of True rank all rows well, and no pair."""
    labels, log_odds = [1, 1, 1, 0, 1, 0, 0, 0], [3, 3, 3, 3, -3, -3, -3, -3]
    questions = [0] * 4 + [1] * 4
    assert within(labels, log_odds, questions) == 0.5
    assert within(labels, log_odds, [0] * 8) == 0.75


@pytest.mark.parametrize("questions", [[0, 1, 2], [0, 0, 1], []])
def test_auroc_within_questions_needs_a_pair(questions: list[int]) -> None:
    labels = [1, 1, 0][: len(questions)]
    assert math.isnan(within(labels, [1, 2, 3][: len(questions)], questions))


@given(rows=st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(-2, 2)), min_size=1))
def test_auroc_within_questions_is_the_share_of_pairs(rows: list[tuple[int, bool, int]]) -> None:
    pairs = [
        (rows[i][2] > rows[j][2]) + (rows[i][2] == rows[j][2]) / 2
        for i, j in np.ndindex(len(rows), len(rows))
        if rows[i][0] == rows[j][0] and rows[i][1] and not rows[j][1]
    ]
    questions, labels, log_odds = zip(*rows, strict=True)
    expected = float(np.mean(pairs)) if pairs else math.nan
    assert within(labels, log_odds, questions) == pytest.approx(expected, nan_ok=True)  # type: ignore[arg-type]


def test_no_rows_define_no_metric() -> None:
    metrics = weighted_metrics(np.zeros(0, bool), np.zeros(0, bool), np.zeros(0), np.ones((2, 0)))
    assert all(np.isnan(values_R).all() and len(values_R) == 2 for values_R in metrics.values())
