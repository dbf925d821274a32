"""Prediction files are read back to the last bit, or refused with what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.predictions import load_predicted, read_log_odds, write_predictions


def test_what_predict_wrote_is_read_back(tmp_path: Path) -> None:
    log_odds_N = np.random.default_rng(0).normal(size=50)
    write_predictions(RunFolder(tmp_path), dict(enumerate(log_odds_N.tolist())), 50)
    file = tmp_path / "probabilities.csv"
    assert np.array_equal(read_log_odds(file), log_odds_N)
    head, *lines = file.read_text().splitlines()
    file.write_text("\n".join([head, *reversed(lines)]))
    assert np.array_equal(read_log_odds(file), log_odds_N)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ID,probability\n0,0.5\n", "line 2 has no ID and log_odds"),
        ("ID,log_odds\n0,1\n1\n", "line 3 has no ID and log_odds"),
        ("ID,log_odds\n0,1\n0,2\n", r"ID 0 stands there twice \(line 3\)"),
        ("ID,log_odds\n0,1\n2,2\n", r"without the IDs \[1\]"),
        ("ID,log_odds\n", r"0 rows, without the IDs \[0\]"),
    ],
)
def test_a_bad_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_log_odds(tmp_path / "p.csv")
    with pytest.raises(ValueError, match="no such file"):
        read_log_odds(tmp_path / "q.csv")


def test_the_labels_must_be_of_as_many_rows() -> None:
    source, labels_N = load_predicted("synthetic:20", 20)
    assert len(source.table) == len(labels_N) == 20
    with pytest.raises(ValueError, match="has 20 rows, the predictions are of 21"):
        load_predicted("synthetic:20", 21)
