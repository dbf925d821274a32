"""The imbalance that is recorded is that of the packed tokens."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import balance
from mv_lightning.schema import EncodedRows


def test_the_slowest_process_over_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of 2 x 2 rows; the instruction of 10 tokens is computed by both processes."""
    lengths_N = np.array([50, 30, 20, 10, 40, 40, 5, 25])
    rows = EncodedRows(
        ids_T=np.zeros(lengths_N.sum(), dtype=np.int32),
        starts_N=np.cumsum([0, *lengths_N]),
        labels_N=np.zeros(8, dtype=np.int8),
        rows_N=np.arange(8),
        truncated_N=np.zeros(8, dtype=np.int32),
        question_prefix_N=np.zeros(8, dtype=np.int32),
        prefix_ids=tuple(range(10)),
    )
    monkeypatch.setattr(balance, "epoch_order", lambda rows, *_: np.arange(rows))
    found = balance.imbalance(rows, processes=2, batch_size=2, accumulate=1)
    assert found["by_number"] == pytest.approx((90 / 65 + 90 / 65) / 2)
    assert found["by_tokens"] == pytest.approx((70 / 65 + 75 / 65) / 2)
