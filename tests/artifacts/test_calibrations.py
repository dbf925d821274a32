"""A calibration is stored with its adapter, where the validation rows support one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mv_lightning.artifacts.calibrations import load_calibration, read_calibration, save_calibration
from mv_lightning.artifacts.layout import CALIBRATION_FILE
from mv_lightning.atomic import read_json, write_json
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.metrics.shift import ValidatedRange
from mv_lightning.schema import EvalOutputs


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


def overconfident(rows: int) -> EvalOutputs:
    """Log-odds five times too large."""
    rng = np.random.default_rng(0)
    log_odds_N = rng.normal(0, 2, rows)
    labels_N = rng.random(rows) < 1 / (1 + np.exp(-log_odds_N))
    return EvalOutputs(np.arange(rows), labels_N, 5 * log_odds_N, np.zeros(rows))


def test_it_is_read_back_and_shifted_to_another_share(tmp_path: Path) -> None:
    save_calibration(tmp_path, overconfident(400), train_share=0.3)
    plain = load_calibration(tmp_path)
    assert plain.temperature == pytest.approx(5, rel=0.3) and plain.prior is None
    assert load_calibration(tmp_path, 0.6) == Calibration(
        plain.temperature, plain.threshold, (0.3, 0.6)
    )
    stored = read_calibration(tmp_path)
    assert stored is not None and stored.train_share == 0.3 and stored.calibration == plain
    assert stored.validated_range == ValidatedRange.of(overconfident(400).log_odds_N)


def test_rows_of_one_class_leave_none(tmp_path: Path) -> None:
    outputs = EvalOutputs(np.arange(3), np.ones(3, dtype=bool), np.ones(3), np.zeros(3))
    save_calibration(tmp_path, outputs, train_share=0.5)
    assert not list(tmp_path.iterdir()) and load_calibration(tmp_path) == Calibration()
    with pytest.raises(ValueError, match=r"true_share=0\.4 needs"):
        load_calibration(tmp_path, 0.4)


@pytest.mark.parametrize(
    "removed", ["calibration", "train_share", "validated_range", "format_version"]
)
def test_a_damaged_or_older_file_is_refused(removed: str, tmp_path: Path) -> None:
    save_calibration(tmp_path, overconfident(400), train_share=0.3)
    values = read_json(tmp_path / CALIBRATION_FILE)
    del values[removed]
    write_json(tmp_path / CALIBRATION_FILE, values)
    message = "got none" if removed == "format_version" else "is damaged"
    with pytest.raises(ValueError, match=rf"calibration\.json.*{message}"):
        load_calibration(tmp_path)
