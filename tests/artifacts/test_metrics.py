"""An evaluation says which rows it takes for independent, and leaves a calibration that they support."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.artifacts.metrics import (
    evaluate,
    load_calibration,
    save_calibration,
    save_report,
)
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
    slices = [part for parts in kept["by"].values() for part in parts.values()]
    assert slices and all(
        part["resampled"] == resampled and part["units"] <= part["rows"] for part in slices
    )
    assert f"intervals over {units} {resampled}" in found.table()


def test_rows_may_come_in_any_order(encoded: EncodedRows) -> None:
    in_order = evaluation(encoded, np.arange(16))
    order_N = np.random.default_rng(1).permutation(16)
    names = ("rows_N", "labels_N", "log_odds_N", "losses_N", "question_ids_N")
    shuffled = EvalOutputs(*(getattr(in_order, name)[order_N] for name in names))
    one, other = (evaluate(given, encoded, None) for given in (in_order, shuffled))
    for name, parts in one.slices.items():
        assert {part: s.rows for part, s in parts.items()} == {
            part: s.rows for part, s in other.slices[name].items()
        }
        assert [s.values for s in parts.values()] == [
            pytest.approx(s.values, nan_ok=True) for s in other.slices[name].values()
        ]


def test_a_question_told_many_times_is_no_evidence_for_a_temperature(tmp_path: Path) -> None:
    labels_N = np.repeat([True, False, True, False], 50)
    odds_N = np.repeat([0.3, -0.2, -0.1, -0.4], 50)
    rows_N = np.arange(200)
    for name, question_ids_N in (("rows", None), ("questions", rows_N // 50)):
        (tmp_path / name).mkdir()
        save_calibration(
            tmp_path / name,
            EvalOutputs(rows_N, labels_N, odds_N, np.zeros(200), question_ids_N),
            0.5,
        )
    assert (
        load_calibration(tmp_path / "rows").temperature
        != 1
        == load_calibration(tmp_path / "questions").temperature
    )
