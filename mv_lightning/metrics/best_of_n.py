"""A verifier that chooses among several solutions of one question (Cobbe et al. 2021,
arXiv:2110.14168).

Suffixes of this file beside those of `schema.py`:

    Q  questions
    C  solutions of one question
    S  subsets of them
    A  distinct answers among them
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mv_lightning.metrics.answers import answer_ids
from mv_lightning.metrics.bootstrap import mean_with_interval
from mv_lightning.metrics.consensus import Consensus
from mv_lightning.metrics.scores import checked
from mv_lightning.numerics import sigmoid
from mv_lightning.schema import DEFAULT_SEED

POLICIES = ("random", "majority", "weighted", "best", "stack", "oracle")
"""How one of several solutions is chosen: at random; the most frequent answer; the answer with the
largest sum of probabilities (Li et al. 2023, arXiv:2206.02336); the highest log-odds; the highest
set-level log-odds of a `Consensus`, if there is one; any correct one. Ties are broken at random:
the rate is the expected one."""
SUBSETS = 1_000
"""Of a question with more subsets of a size, so many are drawn at random."""


def solve_rates(
    question_ids_N: np.ndarray,
    answers: Sequence[str],
    labels_N: np.ndarray,
    log_odds_N: np.ndarray,
    max_n: int,
    consensus: Consensus | None = None,
    seed: int = DEFAULT_SEED,
) -> dict[str, np.ndarray]:
    """Compute the chance that each policy solves each question with 1, 2, ... `max_n` solutions.

    The chance is over which of its solutions are available: all subsets of a size are equally
    likely.

    Args:
        question_ids_N: int [N], the question of each row.
        answers: N proposed answers, compared by value, see `answers.normalize_answer`.
        labels_N: bool [N].
        log_odds_N: float64 [N], calibrated if the weighted vote is to mean something.
        max_n: Solutions a question needs; questions with fewer are left out.
        consensus: For the policy `stack`, fitted on other questions.
        seed: Seed of the subsets, where these are drawn.

    Returns:
        float64 [Q, max_n] by policy, in the order of `POLICIES`, for the questions that have enough
        solutions. Without a consensus, there is no `stack`.

    Raises:
        ValueError: No question has so many solutions, or the arrays do not fit each other.
    """
    labels_N, log_odds_N = checked(labels_N, log_odds_N)
    answers_N = answer_ids(answers)
    rng = np.random.default_rng(seed)
    rates_by_question = []
    for rows_C in _questions(question_ids_N, max_n):
        _, answers_C = np.unique(answers_N[rows_C], return_inverse=True)
        question = _Solutions(answers_C, labels_N[rows_C], log_odds_N[rows_C], consensus)
        subsets = [_subsets(len(rows_C), size, rng) for size in range(1, max_n + 1)]
        rates_by_question.append([question.rates(chosen_SC) for chosen_SC in subsets])
    rates_QNP = np.array(rates_by_question)
    policies = [name for name in POLICIES if name != "stack" or consensus is not None]
    return {name: rates_QNP[:, :, place] for place, name in enumerate(policies)}


def gains_over_majority(rates: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return by how much the verifier's picks solve more questions than the most frequent answer.

    Args:
        rates: float64 [Q] by policy, the solve rates with one number of solutions.

    Returns:
        `value` and paired `interval` of the policies `best` and, if it is there, `stack`.
    """
    return {
        policy: mean_with_interval(rates[policy] - rates["majority"])
        for policy in ("best", "stack")
        if policy in rates
    }


@dataclass(frozen=True)
class _Solutions:
    """The solutions of one question."""

    answers_C: np.ndarray
    """int [C], from 0 without gaps."""
    labels_C: np.ndarray
    log_odds_C: np.ndarray
    consensus: Consensus | None

    def rates(self, chosen_SC: np.ndarray) -> list[float]:
        """Mean over subsets of the chance that each policy chooses a correct solution.

        Args:
            chosen_SC: bool [S, C], the solutions of each subset; all subsets are of one size.

        Returns:
            In the order of `POLICIES`, without `stack` if there is no consensus.
        """
        has_answer_CA = self.answers_C[:, None] == np.arange(self.answers_C.max() + 1)
        # As numbers: the product of bool arrays is an `or`.
        chosen = chosen_SC.astype(np.float64)
        count_SA = chosen @ has_answer_CA
        # An answer that was proposed with both labels is as correct as its available solutions.
        correct_SA = (chosen @ (has_answer_CA & self.labels_C[:, None])) / np.maximum(1, count_SA)
        weight_SA = chosen @ (has_answer_CA * sigmoid(self.log_odds_C)[:, None])
        correct_SC = np.broadcast_to(self.labels_C, chosen_SC.shape)
        odds_SC = np.broadcast_to(self.log_odds_C, chosen_SC.shape)
        rates = {
            "random": (chosen @ self.labels_C) / chosen.sum(axis=1),
            "majority": _of_highest(count_SA, correct_SA),
            "weighted": _of_highest(weight_SA, correct_SA),
            "best": _of_highest(np.where(chosen_SC, odds_SC, -np.inf), correct_SC),
            "oracle": (chosen_SC & self.labels_C).any(axis=1),
        }
        if self.consensus is not None:
            siblings = int(chosen_SC[0].sum()) - 1
            agreement_SC = np.full(chosen_SC.shape, np.nan)
            if siblings:
                agreement_SC = (count_SA[:, self.answers_C] - 1) / siblings
            stack_SC = self.consensus.apply(odds_SC, agreement_SC)
            rates["stack"] = _of_highest(np.where(chosen_SC, stack_SC, -np.inf), correct_SC)
        return [float(rates[name].mean()) for name in POLICIES if name in rates]


def _questions(question_ids_N: np.ndarray, max_n: int) -> list[np.ndarray]:
    """The rows of each question that has enough solutions, int64 [C] each.

    Raises:
        ValueError: There is none.
    """
    order_N = np.argsort(question_ids_N, kind="stable")
    borders = np.flatnonzero(np.diff(question_ids_N[order_N])) + 1
    questions = np.split(order_N, borders) if len(order_N) else []
    enough = [rows_C for rows_C in questions if len(rows_C) >= max_n >= 1]
    if not enough:
        longest = max(map(len, questions), default=0)
        raise ValueError(
            f"expected a number of solutions from 1 to {longest}, got {max_n}: none of "
            f"{len(questions):,} questions has so many"
        )
    return enough


def _subsets(solutions: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Subsets of the solutions, bool [S, C]: all of a size, or as many as `SUBSETS` of them."""
    if math.comb(solutions, size) <= SUBSETS:
        members = np.array(list(combinations(range(solutions), size)))
    else:
        members = rng.permuted(np.tile(np.arange(solutions), (SUBSETS, 1)), axis=1)[:, :size]
    chosen_SC = np.zeros((len(members), solutions), dtype=bool)
    np.put_along_axis(chosen_SC, members, True, axis=1)
    return chosen_SC


def _of_highest(values: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """The share of correct ones among the candidates of highest value in each subset, [S]."""
    highest = values == values.max(axis=1, keepdims=True)
    share_S: np.ndarray = (highest * correct).sum(axis=1) / highest.sum(axis=1)
    return share_S
