"""The rows of the benchmark are different ones, and a prediction of them is complete."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.large_data import predicted_rows, write_rows
from mv_lightning.artifacts.predictions import read_predictions
from mv_lightning.data.sources import load_source


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_rows_are_different_and_all_predicted(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", 70_000, lines=0)
    counts = load_source(str(tmp_path / "rows.parquet")).counts
    assert counts["duplicates"] == 0 and counts["distinct_questions"] <= 17_500
    write_rows(tmp_path / "rows.parquet", 1_200, lines=0)
    report = predicted_rows(tmp_path, 1_200)
    written = tmp_path / "run" / "untrained" / "probabilities.csv"
    assert len(read_predictions(written).ids) == 1_200
    assert 0 < report["peak_mb"] <= report["resident_mb"]
