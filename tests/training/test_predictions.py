"""The prediction files hold every row of the source once, in order, or are not written at all."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mv_lightning.training.callbacks import PROBABILITIES, SUBMISSION, write_predictions

ODDS = st.floats(-50, 50, allow_nan=False)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odds=st.lists(ODDS, min_size=1, max_size=30), seed=st.randoms())
def test_source_order_and_full_precision(tmp_path: Path, odds: list[float], seed: object) -> None:
    rows = list(enumerate(odds))
    seed.shuffle(rows)  # type: ignore[attr-defined]
    write_predictions(tmp_path, dict(rows), len(odds))
    with (tmp_path / SUBMISSION).open() as file:
        assert list(csv.reader(file)) == [
            ["ID", "is_correct"],
            *([str(i), str(value > 0)] for i, value in enumerate(odds)),
        ]
    with (tmp_path / PROBABILITIES).open() as file:
        read = list(csv.DictReader(file))
    assert [float(row["log_odds"]) for row in read] == odds
    for row, value in zip(read, odds, strict=True):
        assert float(row["probability"]) == pytest.approx(1 / (1 + math.exp(-value)), rel=1e-12)


def test_a_missing_row_stops_everything(tmp_path: Path) -> None:
    (tmp_path / SUBMISSION).write_text("old")
    with pytest.raises(ValueError, match=r"2 predictions for 3 rows.*\[1\]"):
        write_predictions(tmp_path, {0: 1.0, 2: -1.0}, 3)
    assert (tmp_path / SUBMISSION).read_text() == "old"


def test_the_same_predictions_make_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_predictions(tmp_path / name, {1: 0.1, 0: -3.7}, 2)
    assert (tmp_path / "a" / PROBABILITIES).read_bytes() == (tmp_path / "b" / PROBABILITIES).read_bytes()
