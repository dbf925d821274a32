"""The files of an evaluation are read back, and say which rows they take as independent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mv_lightning.artifacts.evaluations import save_report
from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.metrics.evaluation import evaluate
from mv_lightning.schema import EncodedRows, EvalOutputs


def evaluation(encoded: EncodedRows, question_ids_N: np.ndarray | None) -> EvalOutputs:
    """Of all rows of `encoded`, some of them judged wrongly."""
    labels_N = encoded.labels_N == 1
    odds_N = np.where(labels_N, 1.0, -1.0) * np.random.default_rng(0).normal(1, 1, len(encoded))
    return EvalOutputs(encoded.rows_N, labels_N, odds_N, np.logaddexp(0, -odds_N), question_ids_N)


@pytest.mark.parametrize(
    ("groups", "resampled", "units"), [(None, "rows", 16), (4, "questions", 4)]
)
def test_it_is_said_what_the_intervals_resample(
    groups: int | None, resampled: str, units: int, encoded: EncodedRows, tmp_path: Path
) -> None:
    found = evaluate(
        evaluation(encoded, None if groups is None else np.arange(16) % groups), encoded, None
    )
    save_report(PhaseFolder(tmp_path, 1), "val", found)
    kept = json.loads((PhaseFolder(tmp_path, 1).metrics).read_text())["val"]
    assert (kept["resampled"], kept["units"]) == (resampled, units)
    slices = [part for parts in kept["slices"].values() for part in parts.values()]
    assert slices and all(
        part["resampled"] == resampled and part["units"] <= part["rows"] for part in slices
    )
    assert f"intervals over {units} {resampled}" in found.table()
