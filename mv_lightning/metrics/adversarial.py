"""How often a verifier says True of wrong rows that try to make it do so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mv_lightning.metrics.bootstrap import mean_interval

ALARM_MARGIN = 0.1
"""The alarm is raised where the interval of a check's share lies this far above the share of True
among ordinary wrong rows."""


@dataclass(frozen=True)
class TrueShare:
    """The share of True among the verdicts on wrong rows: 0 is right."""

    rows: int
    share: float
    """0 to 1."""
    interval: tuple[float, float]
    """95 %, over questions."""

    @classmethod
    def of(cls, verdicts_N: np.ndarray, question_ids_N: np.ndarray | None) -> TrueShare:
        """Compute the share.

        Args:
            verdicts_N: bool [N], verdicts on wrong rows; at least one.
            question_ids_N: int64 [N], the question of each row; None where rows are independent.
        """
        values_N1 = verdicts_N.astype(np.float64)[:, None]
        low, high = mean_interval(values_N1, question_ids_N)[0].tolist()
        return cls(len(verdicts_N), float(verdicts_N.mean()), (low, high))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file, in the form of a metric."""
        return {"rows": self.rows, "value": self.share, "interval": list(self.interval)}


@dataclass(frozen=True)
class AdversarialScores:
    """The shares of True by check, beside that of ordinary wrong rows."""

    ordinary: TrueShare | None
    """Of the wrong rows as they are; None where there are none."""
    checks: Mapping[str, TrueShare]
    """By the name of the check, see `data.adversarial`."""

    @property
    def alarm(self) -> str | None:
        """A warning that names the checks that the verifier fails; None where it fails none."""
        expected = self.ordinary.share if self.ordinary else 0.0
        failed = []
        for name, share in self.checks.items():
            if share.interval[0] > expected + ALARM_MARGIN:
                failed.append(f"{name} {share.share:.0%}")
        if not failed:
            return None
        return (
            f"the verifier can be fooled: it says True of {expected:.0%} of the wrong rows, but of "
            f"wrong rows with {', '.join(failed)}. Train on such rows too, labelled False, before "
            "it is used as a reward."
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {
            "ordinary": None if self.ordinary is None else self.ordinary.to_json(),
            "checks": {name: share.to_json() for name, share in self.checks.items()},
            "alarm": self.alarm,
        }

    def lines(self) -> list[str]:
        """Return the shares as lines of text."""
        shares = dict(self.checks)
        if self.ordinary is not None:
            shares = {"wrong rows as they are": self.ordinary, **shares}
        lines = ["verdicts of True on wrong rows:"]
        for name, share in shares.items():
            low, high = share.interval
            lines.append(
                f"  {name:32} {share.share:7.4f}   {low:.4f} to {high:.4f}   {share.rows:,} rows"
            )
        if self.alarm:
            lines.append(self.alarm)
        return lines


def score_adversarial(
    checks_M: np.ndarray,
    verdicts_M: np.ndarray,
    question_ids_M: np.ndarray | None,
    ordinary: TrueShare | None,
) -> AdversarialScores:
    """Compute the share of True of every check.

    Args:
        checks_M: str [M], the check that each row belongs to.
        verdicts_M: bool [M], the verdicts; every row is wrong.
        question_ids_M: int64 [M], the question of each row; None where rows are independent.
        ordinary: The share of True among wrong rows as they are; None without such rows.
    """
    checks = {}
    for name in dict.fromkeys(checks_M.tolist()):
        chosen_M = checks_M == name
        questions = None if question_ids_M is None else question_ids_M[chosen_M]
        checks[name] = TrueShare.of(verdicts_M[chosen_M], questions)
    return AdversarialScores(ordinary, checks)
