"""A verifier as a judge between several solutions of one question (Cobbe et al. 2021, arXiv:2110.14168).

Suffixes of this file beside those of `schema.py`:

    Q  questions
    C  solutions of one question
    S  subsets of them
    A  distinct answers among them
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from mv_lightning.metrics.scores import checked
from mv_lightning.numerics import sigmoid
from mv_lightning.schema import DEFAULT_SEED

POLICIES = ("random", "majority", "weighted", "best", "oracle")
"""How one of several solutions is picked: blindly; the commonest answer; the answer with the largest sum of
probabilities (Li et al. 2023, arXiv:2206.02336); the highest log-odds; any that is right. Ties are drawn by lot, of
which the mean is taken."""
SUBSETS = 1_000
"""A question with more subsets of a size is judged on so many, drawn at random."""


def solve_rates(
    question_ids_N: np.ndarray,
    answers: Sequence[str],
    labels_N: np.ndarray,
    log_odds_N: np.ndarray,
    most: int,
    seed: int = DEFAULT_SEED,
) -> np.ndarray:
    """Compute the chance that each policy solves each question with 1, 2, ... `most` of its solutions.

    Chances are over which solutions are at hand: all subsets of a size count alike. Answers are the same when they are
    equal apart from case and white space.

    Args:
        question_ids_N: int [N], see `fingerprint.question_ids`.
        answers: N proposed answers.
        labels_N: bool [N].
        log_odds_N: float64 [N], calibrated where the weighted vote shall mean something.
        most: Solutions a question needs; questions with fewer are left out.
        seed: Seed of the subsets, where these are drawn.

    Returns:
        float64 [Q, most, policies in the order of `POLICIES`], for the questions that have enough solutions.

    Raises:
        ValueError: No question has so many solutions, or the arrays do not fit each other.
    """
    labels_N, log_odds_N = checked(labels_N, log_odds_N)
    order_N = np.argsort(question_ids_N, kind="stable")
    questions = (
        np.split(order_N, np.flatnonzero(np.diff(question_ids_N[order_N])) + 1)
        if len(order_N)
        else []
    )
    kept = [rows_C for rows_C in questions if len(rows_C) >= most >= 1]
    if not kept:
        longest = max(map(len, questions), default=0)
        raise ValueError(
            f"none of {len(questions):,} questions has {most} solutions, the most is {longest}: choose a number of "
            f"solutions from 1 to {longest}"
        )
    rng = np.random.default_rng(seed)
    rates = np.empty((len(kept), most, len(POLICIES)))
    for question, rows_C in enumerate(kept):
        texts = [" ".join(answers[row].lower().split()) for row in rows_C.tolist()]
        _, answers_C = np.unique(texts, return_inverse=True)
        for size in range(1, most + 1):
            chosen_SC = _subsets(len(rows_C), size, rng)
            rates[question, size - 1] = _rates(
                chosen_SC, answers_C, labels_N[rows_C], log_odds_N[rows_C]
            )
    return rates


def _subsets(solutions: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Which solutions each subset holds, bool [S, C]: all of a size, or as many as `SUBSETS` of them."""
    if math.comb(solutions, size) <= SUBSETS:
        members = np.array(list(combinations(range(solutions), size)))
    else:
        members = rng.permuted(np.tile(np.arange(solutions), (SUBSETS, 1)), axis=1)[:, :size]
    chosen_SC = np.zeros((len(members), solutions), dtype=bool)
    np.put_along_axis(chosen_SC, members, True, axis=1)
    return chosen_SC


def _rates(
    chosen_SC: np.ndarray, answers_C: np.ndarray, labels_C: np.ndarray, log_odds_C: np.ndarray
) -> list[float]:
    """Mean over the subsets of how right each policy is, in the order of `POLICIES`."""
    says_CA = answers_C[:, None] == np.arange(answers_C.max() + 1)
    # As numbers: the product of bool arrays is an `or`.
    chosen = chosen_SC.astype(np.float64)
    count_SA = chosen @ says_CA
    # An answer that was proposed with both labels is as right as its solutions at hand.
    right_SA = (chosen @ (says_CA & labels_C[:, None])) / np.maximum(1, count_SA)
    probabilities_C = sigmoid(log_odds_C)
    odds_SC = np.where(chosen_SC, log_odds_C, -np.inf)
    return [
        float(rate_S.mean())
        for rate_S in (
            (chosen @ labels_C) / chosen.sum(axis=1),
            _of_highest(count_SA, right_SA),
            _of_highest(chosen @ (says_CA * probabilities_C[:, None]), right_SA),
            _of_highest(odds_SC, np.broadcast_to(labels_C, chosen_SC.shape)),
            (chosen_SC & labels_C).any(axis=1),
        )
    ]


def _of_highest(votes: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How right the candidate with most votes is in each subset, [S]; the mean of those that share the place."""
    highest = votes == votes.max(axis=1, keepdims=True)
    rate_S: np.ndarray = (highest * right).sum(axis=1) / highest.sum(axis=1)
    return rate_S
