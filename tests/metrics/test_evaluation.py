"""An evaluation is the same in whatever order its rows come."""

from __future__ import annotations

import numpy as np
import pytest

from mv_lightning.metrics.evaluation import evaluate
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
