"""Calibration of log-odds: temperature, decision threshold, and the share of True.

All of it scales log-odds by a positive factor and adds an offset, so the ranking of rows stays.
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

_CHI_SQUARE_95 = 3.841  # 95 % quantile with one degree of freedom
# Largest log-odds after calibration; only rows that are almost separable need so much.
_MAX_LOG_ODDS = 2.0**40
_BISECTIONS = 60


@dataclass(frozen=True)
class Calibration:
    """The map from raw log-odds to calibrated ones, and the threshold of a verdict of True."""

    temperature: float = 1.0
    """Divisor of raw log-odds; above 1 for an overconfident model (Guo et al. 2017,
    arXiv:1706.04599)."""
    threshold: float = 0.0
    """Calibrated log-odds above it are a verdict of True."""
    prior: tuple[float, float] | None = None
    """Shares of True among the training rows and the rows to score, such as (0.5, 0.4); None where
    they are the same. The odds are multiplied by the ratio of the two odds (Saerens et al. 2002,
    Neural Computation 14(1), eq. 2.4)."""

    def __post_init__(self) -> None:
        """Refuse values that would change the ranking.

        Raises:
            ValueError: A temperature, threshold or share is out of range.
        """
        if not (0 < self.temperature < math.inf and math.isfinite(self.threshold)):
            raise ValueError(
                "expected a positive temperature and a finite threshold, got temperature="
                f"{self.temperature} and threshold={self.threshold}. 1 and 0 change nothing"
            )
        if self.prior is None:
            return
        if len(self.prior) != 2 or not all(0 < share < 1 for share in self.prior):
            raise ValueError(
                "expected two shares of True between 0 and 1, of the training rows and of the rows "
                f"to score, such as (0.5, 0.4), got prior={self.prior}"
            )

    def apply(self, log_odds_N: np.ndarray) -> np.ndarray:
        """Return calibrated log-odds, float64 [N].

        Args:
            log_odds_N: [N], log P(True) - log P(False), the output of the model.
        """
        calibrated_N = np.asarray(log_odds_N, dtype=np.float64) / self.temperature
        if self.prior is None:
            return calibrated_N
        train, predicted = (math.log(share / (1 - share)) for share in self.prior)
        return calibrated_N + (predicted - train)

    def decide(self, log_odds_N: np.ndarray) -> np.ndarray:
        """Return the verdicts, bool [N].

        Args:
            log_odds_N: [N], as for `apply`: raw, not yet calibrated.
        """
        return self.apply(log_odds_N) > self.threshold

    def to_json(self) -> dict[str, Any]:
        """Return plain values, to be stored with an adapter."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """Return the calibration that `to_json` stored.

        Raises:
            ValueError: Keys are missing or unexpected, or a value is out of range.
        """
        fields = cls.__dataclass_fields__
        if values.keys() != fields.keys():
            raise ValueError(
                f"expected a calibration with the keys {sorted(fields)}, got {sorted(values)}. "
                "Calibrate again"
            )
        prior = values["prior"]
        if prior is not None:
            prior = tuple(prior)
        return cls(values["temperature"], values["threshold"], prior)


def fit_calibration(
    labels_N: np.ndarray, log_odds_N: np.ndarray, question_ids_N: np.ndarray | None = None
) -> Calibration:
    """Fit temperature, then threshold, on validation rows.

    Each keeps its default unless another value is significantly better: a few hundred rows always
    have a better threshold, and it is seldom better on others.

    Args:
        labels_N: bool [N], both classes.
        log_odds_N: float64 [N], raw.
        question_ids_N: int64 [N], the question of each row; None where every row is independent of
            the others.

    Raises:
        ValueError: See `fit_temperature`.
    """
    scaled = Calibration(fit_temperature(labels_N, log_odds_N, question_ids_N))
    fitted = Calibration(scaled.temperature, fit_threshold(labels_N, scaled.apply(log_odds_N)))
    gain_N = 1.0 * (fitted.decide(log_odds_N) == labels_N) - (scaled.decide(log_odds_N) == labels_N)
    low, _ = mean_interval(gain_N[:, None], question_ids_N)[0]
    return fitted if low > 0 else scaled


def fit_temperature(
    labels_N: np.ndarray, log_odds_N: np.ndarray, question_ids_N: np.ndarray | None = None
) -> float:
    """Find the temperature of least log loss; 1 unless it is significantly better.

    As Guo et al. 2017 (arXiv:1706.04599, section 4.2), but a few dozen rows always look somewhat
    overconfident or underconfident. So the temperature stays 1 unless a likelihood-ratio test
    (Wilks 1938, Annals of Mathematical Statistics 9(1)) rejects that at 5 %. All rows of a question
    count as one.

    The loss is convex in the inverse temperature, so the zero of its slope is found by bisection.
    Two kinds of rows have no best temperature, and get 1: those on which every verdict is right
    (the loss decreases without end as the temperature does) and those whose log-odds are not
    informative (the loss is least at no confidence, or with all verdicts reversed).

    Args:
        labels_N: bool [N], both classes.
        log_odds_N: float64 [N], raw.
        question_ids_N: As for `fit_calibration`.

    Raises:
        ValueError: A class is missing, the arrays do not fit each other, or a log-odds is not
            finite.
    """
    labels_N, log_odds_N = both_classes(labels_N, log_odds_N)
    signed_N = np.where(labels_N, log_odds_N, -log_odds_N)
    scale = np.abs(signed_N).max()
    if np.all(signed_N >= 0) or np.sum(signed_N) <= 0:
        return 1.0
    # In units of the largest log-odds, so that no input is too large or too small for the bracket.
    unit_N = signed_N / scale

    inverse = _best_inverse_temperature(unit_N)
    gain = np.mean(np.logaddexp(0, -signed_N) - np.logaddexp(0, -unit_N * inverse))
    independent = len(labels_N) if question_ids_N is None else len(np.unique(question_ids_N))
    return float(scale / inverse) if 2 * independent * gain > _CHI_SQUARE_95 else 1.0


def _best_inverse_temperature(signed_N: np.ndarray) -> float:
    """Factor of least log loss, for log-odds that are positive where the verdict is right."""

    def slope(inverse: float) -> float:
        """Derivative of the log loss by the inverse temperature."""
        return float(-np.mean(signed_N * sigmoid(-signed_N * inverse)))

    low, high = 0.0, 1.0
    while slope(high) < 0 and high < _MAX_LOG_ODDS:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if slope(middle) < 0:
            low = middle
        else:
            high = middle
    return high


def fit_threshold(labels_N: np.ndarray, log_odds_N: np.ndarray) -> float:
    """Find the threshold of highest accuracy; of several, the one nearest to 0.

    Candidates are the midpoints between neighbouring log-odds, and 0. A few hundred rows determine
    a threshold badly: compare the accuracy at 0 before it is used.

    Args:
        labels_N: bool [N], both classes.
        log_odds_N: float64 [N], calibrated.

    Raises:
        ValueError: A class is missing, the arrays do not fit each other, or a log-odds is not
            finite.
    """
    labels_N, log_odds_N = both_classes(labels_N, log_odds_N)
    distinct_G = np.unique(log_odds_N)
    midpoints = distinct_G[:-1] + np.diff(distinct_G) / 2
    candidates = np.r_[distinct_G[0] - 1, midpoints, distinct_G[-1], 0.0]
    # Right are the False rows at or below a threshold and the True rows above it.
    true, false = np.sort(log_odds_N[labels_N]), np.sort(log_odds_N[~labels_N])
    true_above = len(true) - np.searchsorted(true, candidates, "right")
    right = np.searchsorted(false, candidates, "right") + true_above
    best = candidates[right == right.max()]
    return float(best[np.abs(best).argmin()])
