"""An evaluation knows its rows in whatever order they come, and slices them as the split states."""

from __future__ import annotations

import numpy as np
import pytest

from mv_lightning.metrics.evaluation import evaluate
from mv_lightning.metrics.scores import score
from mv_lightning.schema import EncodedRows, EvalOutputs, Split


def outputs_of(encoded: EncodedRows, question_ids_N: np.ndarray | None) -> EvalOutputs:
    """Of all rows of `encoded`, some of them with the wrong verdict."""
    labels_N = encoded.labels_N == 1
    odds_N = np.where(labels_N, 1.0, -1.0) * np.random.default_rng(0).normal(1, 1, len(encoded))
    return EvalOutputs(encoded.rows_N, labels_N, odds_N, np.logaddexp(0, -odds_N), question_ids_N)


def test_rows_may_come_in_any_order(encoded: EncodedRows) -> None:
    in_order = outputs_of(encoded, np.arange(16))
    order_N = np.random.default_rng(1).permutation(16)
    names = ("rows_N", "labels_N", "log_odds_N", "losses_N", "question_ids_N")
    shuffled = EvalOutputs(*(getattr(in_order, name)[order_N] for name in names))
    one, other = (evaluate(given, Split(encoded, np.arange(16))) for given in (in_order, shuffled))
    for name, parts in one.slices.items():
        assert {part: s.rows for part, s in parts.items()} == {
            part: s.rows for part, s in other.slices[name].items()
        }
        assert [s.values for s in parts.values()] == [
            pytest.approx(s.values, nan_ok=True) for s in other.slices[name].values()
        ]


def test_slices_follow_what_the_split_states(encoded: EncodedRows) -> None:
    seen_N = np.arange(16) < 5
    sources_N = np.array(["gsm8k", "mmlu"])[np.arange(16) % 2]
    split = Split(
        encoded,
        np.arange(16),
        slices={"kind": np.array(["slip", ""] * 8), "level": np.arange(16).astype(str)},
        seen_N=seen_N,
        sources_N=sources_N,
        ids=[f"q{row}" for row in range(16)],
    )
    every = outputs_of(encoded, np.arange(16))
    names = ("rows_N", "labels_N", "log_odds_N", "losses_N", "question_ids_N")
    outputs = EvalOutputs(*(getattr(every, name)[3:9][::-1] for name in names))
    report = evaluate(outputs, split)
    rows = {
        name: {part: scores.rows for part, scores in parts.items()}
        for name, parts in report.slices.items()
    }
    assert rows["question"] == {"seen": 2, "unseen": 4}
    assert rows["source"] == {"gsm8k": 3, "mmlu": 3}
    assert rows["kind"] == {"": 3, "slip": 3}
    assert rows["level"] == {str(row): 1 for row in range(3, 9)}
    assert list(report.ids) == ["q8", "q7", "q6", "q5", "q4", "q3"] and not report.is_complete
    in_N = sources_N[outputs.rows_N] == "gsm8k"
    expected = score(outputs.labels_N[in_N], outputs.log_odds_N[in_N])
    for metric in ("balanced_accuracy", "ece"):
        assert report.slices["source"]["gsm8k"].values[metric] == expected.values[metric]
    plain = evaluate(outputs, Split(encoded, np.arange(16)))
    assert set(plain.slices) == {"tokens", "truncated"}
    assert list(plain.ids) == ["8", "7", "6", "5", "4", "3"]
