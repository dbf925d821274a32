"""The prediction files hold every row of the source once, in order, or are not written at all."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.training.prediction_writer import (
    check_sample_submission,
    write_predictions,
)

ODDS = st.floats(-50, 50, allow_nan=False)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(odds=st.lists(ODDS, min_size=1, max_size=30), seed=st.randoms())
def test_source_order_and_full_precision(tmp_path: Path, odds: list[float], seed: object) -> None:
    rows = list(enumerate(odds))
    seed.shuffle(rows)  # type: ignore[attr-defined]
    write_predictions(RunFolder(tmp_path), dict(rows), len(odds))
    with (tmp_path / "submission.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["ID", "is_correct"],
            *([str(i), str(value > 0)] for i, value in enumerate(odds)),
        ]
    with (tmp_path / "probabilities.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [float(row["log_odds"]) for row in read] == odds
    for row, value in zip(read, odds, strict=True):
        assert float(row["probability"]) == pytest.approx(1 / (1 + math.exp(-value)), rel=1e-12)


def test_a_missing_row_stops_everything(tmp_path: Path) -> None:
    (tmp_path / "submission.csv").write_text("old")
    with pytest.raises(ValueError, match=r"2 predictions for 3 rows.*\[1\]"):
        write_predictions(RunFolder(tmp_path), {0: 1.0, 2: -1.0}, 3)
    assert (tmp_path / "submission.csv").read_text() == "old"


def test_the_same_predictions_make_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_predictions(RunFolder(tmp_path / name), {1: 0.1, 0: -3.7}, 2)
    assert (tmp_path / "a" / "probabilities.csv").read_bytes() == (
        tmp_path / "b" / "probabilities.csv"
    ).read_bytes()


def test_a_row_too_many_stops_everything(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not have: \[3\]"):
        write_predictions(RunFolder(tmp_path), dict.fromkeys(range(4), 1.0), 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["ID,is_correct\n0,True\n1,False\n2,True\n", "\ufeffID,is_correct\r\n2,x\r\n0,x\r\n1,x"]
)
def test_a_sample_with_the_same_ids_fits(text: str, tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_text(text, encoding="utf-8")
    check_sample_submission(tmp_path / "sample.csv", 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "id,is_correct\n0,True\n",
            "has the header id,is_correct; the submission will have ID,is_correct",
        ),
        (
            "ID,is_correct\n0,True\n1,True\n",
            r"2 rows, the source 3 .*1 rows that the sample has no ID for: 2\.",
        ),
        (
            "ID,is_correct\n" + "".join(f"{i},x\n" for i in range(9)),
            "6 IDs of the sample that no row has: 3, 4, 5, 6, 7,",
        ),
        ("ID,is_correct\n0,x\n1,x\n1,x\n2,x\n", "1 IDs twice in the sample: 1"),
        ("", "has the header ;"),
        ('ID,is_correct\n"0"x,True\n', "cannot be read as CSV"),
    ],
)
def test_a_sample_of_other_rows_is_refused_with_the_difference(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "sample.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        check_sample_submission(tmp_path / "sample.csv", 3)


def test_a_sample_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_bytes(b"ID,is_correct\n\xff,True\n")
    for name in ("sample.csv", "none.csv"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as CSV"):
            check_sample_submission(tmp_path / name, 3)
