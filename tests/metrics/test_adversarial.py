"""Shares of True on wrong rows, and the alarm."""

from __future__ import annotations

import json

import numpy as np

from mv_lightning.metrics.adversarial import ALARM_MARGIN, TrueShare, score_adversarial


def test_shares_by_hand() -> None:
    checks_M = np.array(["a", "b", "a", "a", "b", "a"])
    verdicts_M = np.array([True, False, False, True, False, True])
    scores = score_adversarial(checks_M, verdicts_M, None, None)
    assert {name: (s.rows, s.share) for name, s in scores.checks.items()} == {
        "a": (4, 0.75),
        "b": (2, 0.0),
    }
    assert scores.checks["b"].interval == (0.0, 0.0)
    assert scores.checks["a"].interval[0] < 0.75 <= scores.checks["a"].interval[1]
    assert json.loads(json.dumps(scores.to_json()))["checks"]["a"]["value"] == 0.75


def test_intervals_are_over_questions() -> None:
    verdicts_N = np.repeat([True, False, True, False], 10)
    rows = TrueShare.of(verdicts_N, None)
    questions = TrueShare.of(verdicts_N, np.repeat(np.arange(4), 10))
    assert questions.interval == (0.0, 1.0)
    assert 0.3 < rows.interval[0] < rows.interval[1] < 0.7


def test_the_alarm_compares_with_ordinary_wrong_rows() -> None:
    checks_M = np.repeat(["fooled", "not fooled"], 200)
    verdicts_M = np.concatenate([np.arange(200) % 2 == 0, np.arange(200) % 5 == 0])
    rarely = TrueShare.of(np.arange(100) % 5 == 0, None)
    often = TrueShare.of(np.arange(100) % 2 == 0, None)
    alarm = score_adversarial(checks_M, verdicts_M, None, rarely).alarm
    assert alarm is not None and "fooled 50%" in alarm and "not fooled" not in alarm
    assert "20% of the wrong rows" in alarm
    assert score_adversarial(checks_M, verdicts_M, None, often).alarm is None
    # A share above the margin whose interval reaches below it is no alarm.
    few = score_adversarial(checks_M[:6], verdicts_M[:6], None, rarely)
    assert few.checks["fooled"].share > rarely.share + ALARM_MARGIN and few.alarm is None
