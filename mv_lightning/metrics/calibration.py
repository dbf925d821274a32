"""From what a model says to what may be believed: temperature, decision threshold, and the share of True.

All of it moves log-odds by a positive slope and an offset, so a calibrated verifier ranks rows as before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mv_lightning.metrics.bootstrap import mean_interval
from mv_lightning.metrics.scores import both_classes
from mv_lightning.numerics import sigmoid

_BEYOND_CHANCE = 3.841  # of chi-square with one degree of freedom, 5 % lie above
_SUREST = (
    2.0**40
)  # largest log-odds after calibration; only rows that are all but separable ask for so much


@dataclass(frozen=True)
class Calibration:
    """How raw log-odds become calibrated ones, and where True begins."""

    temperature: float = 1.0
    """Raw log-odds are divided by it; above 1 for a model that is too sure (Guo et al. 2017, arXiv:1706.04599)."""
    threshold: float = 0.0
    """Calibrated log-odds above it are a verdict of True."""
    prior: tuple[float, float] | None = None
    """Shares of True among the rows trained on and the rows to score, such as (0.5, 0.4); None where they are alike.
    The odds are multiplied by the ratio of the two odds (Saerens et al. 2002, Neural Computation 14(1), eq. 2.4)."""

    def __post_init__(self) -> None:
        """Refuse what would change the ranking.

        Raises:
            ValueError: A temperature, threshold or share that cannot be.
        """
        if not (
            math.isfinite(self.temperature)
            and self.temperature > 0
            and math.isfinite(self.threshold)
        ):
            raise ValueError(
                f"temperature={self.temperature}, threshold={self.threshold}: needed are a positive temperature and a "
                "finite threshold; 1 and 0 change nothing"
            )
        if self.prior is not None and not (
            len(self.prior) == 2 and all(0 < share < 1 for share in self.prior)
        ):
            raise ValueError(
                f"prior={self.prior}: needed are two shares of True between 0 and 1, of the rows trained on and of the "
                "rows to score, such as (0.5, 0.4)"
            )

    def apply(self, log_odds_N: np.ndarray) -> np.ndarray:
        """Return calibrated log-odds, float64 [N].

        Args:
            log_odds_N: [N], log P(True) - log P(False) as the model gave it.
        """
        calibrated_N = np.asarray(log_odds_N, dtype=np.float64) / self.temperature
        if self.prior is None:
            return calibrated_N
        trained, judged = (math.log(share / (1 - share)) for share in self.prior)
        return calibrated_N + (judged - trained)

    def decide(self, log_odds_N: np.ndarray) -> np.ndarray:
        """Return the verdicts, bool [N].

        Args:
            log_odds_N: [N], as for `apply`: raw, not yet calibrated.
        """
        return self.apply(log_odds_N) > self.threshold

    def to_json(self) -> dict[str, Any]:
        """Return plain values, to be kept beside an adapter."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """Make it again from what `to_json` gave.

        Raises:
            ValueError: Other keys, or values that cannot be.
        """
        if values.keys() != cls.__dataclass_fields__.keys():
            raise ValueError(
                f"a calibration has the keys {sorted(cls.__dataclass_fields__)}, got {sorted(values)}; calibrate again"
            )
        prior = values["prior"]
        return cls(
            values["temperature"], values["threshold"], None if prior is None else tuple(prior)
        )


def fit_calibration(
    labels_N: np.ndarray, log_odds_N: np.ndarray, question_ids_N: np.ndarray | None = None
) -> Calibration:
    """Fit temperature, then threshold, on validation rows.

    Each stays where it was unless moving it helps beyond chance: a few hundred rows always have a better threshold, and
    it is seldom better on others.

    Args:
        labels_N: bool [N], both classes.
        log_odds_N: float64 [N], raw.
        question_ids_N: int64 [N], the question of each row; None where every row is independent of the others.

    Raises:
        ValueError: See `fit_temperature`.
    """
    scaled = Calibration(fit_temperature(labels_N, log_odds_N, question_ids_N))
    fitted = Calibration(scaled.temperature, fit_threshold(labels_N, scaled.apply(log_odds_N)))
    gain_N = 1.0 * (fitted.decide(log_odds_N) == labels_N) - (scaled.decide(log_odds_N) == labels_N)
    return fitted if mean_interval(gain_N[:, None], question_ids_N)[0, 0] > 0 else scaled


def fit_temperature(
    labels_N: np.ndarray, log_odds_N: np.ndarray, question_ids_N: np.ndarray | None = None
) -> float:
    """Find the temperature of least log loss, and keep to 1 where that may be chance.

    As Guo et al. 2017 (arXiv:1706.04599, section 4.2), but a few dozen rows always look a little too sure or too timid.
    So the temperature stays 1 unless a likelihood-ratio test (Wilks 1938, Annals of Mathematical Statistics 9(1))
    rejects that at 5 %. The rows of one question count as one together.

    The loss is convex in the inverse temperature, so its slope is brought to zero by bisection. Two kinds of rows have
    no best temperature, and get 1: those on which every verdict is right (the loss falls for ever as confidence grows)
    and those on which the log-odds tell nothing (it is least at no confidence, or at turning all verdicts round).

    Args:
        labels_N: bool [N], both classes.
        log_odds_N: float64 [N], raw.
        question_ids_N: As for `fit_calibration`.

    Raises:
        ValueError: A class is missing, the arrays do not fit each other, or a log-odds is not finite.
    """
    labels_N, log_odds_N = both_classes(labels_N, log_odds_N)
    signed_N = np.where(labels_N, log_odds_N, -log_odds_N)
    scale = np.abs(signed_N).max()
    if np.all(signed_N >= 0) or np.sum(signed_N) <= 0:
        return 1.0
    # In units of the largest log-odds, so that no input is too large or too small for the bracket.
    unit_N = signed_N / scale

    def slope(inverse: float) -> float:
        """Derivative of the log loss by the inverse temperature."""
        return float(-np.mean(unit_N * sigmoid(-unit_N * inverse)))

    low, high = 0.0, 1.0
    while slope(high) < 0 and high < _SUREST:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    gain = np.mean(np.logaddexp(0, -signed_N) - np.logaddexp(0, -unit_N * high))
    independent = len(labels_N) if question_ids_N is None else len(np.unique(question_ids_N))
    return float(scale / high) if 2 * independent * gain > _BEYOND_CHANCE else 1.0


def fit_threshold(labels_N: np.ndarray, log_odds_N: np.ndarray) -> float:
    """Find the threshold of highest accuracy; of several, the one nearest to 0.

    Candidates lie half way between neighbouring log-odds, and at 0. A few hundred rows determine a threshold badly:
    compare the accuracy at 0 before it is used.

    Args:
        labels_N: bool [N], both classes.
        log_odds_N: float64 [N], calibrated.

    Raises:
        ValueError: A class is missing, the arrays do not fit each other, or a log-odds is not finite.
    """
    labels_N, log_odds_N = both_classes(labels_N, log_odds_N)
    distinct_G = np.unique(log_odds_N)
    candidates = np.r_[
        distinct_G[0] - 1, distinct_G[:-1] + np.diff(distinct_G) / 2, distinct_G[-1], 0.0
    ]
    # Right at a threshold: the False at or below it and the True above it.
    true, false = np.sort(log_odds_N[labels_N]), np.sort(log_odds_N[~labels_N])
    right = (
        np.searchsorted(false, candidates, "right")
        + len(true)
        - np.searchsorted(true, candidates, "right")
    )
    best = candidates[right == right.max()]
    return float(best[np.abs(best).argmin()])
