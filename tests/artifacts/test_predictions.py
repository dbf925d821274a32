"""Prediction files hold every row once, under its own ID, or are not written at all."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.predictions import (
    load_predicted,
    read_predictions,
    read_sample_submission,
    write_predictions,
)

ODDS = st.floats(-50, 50, allow_nan=False)


def row_ids(rows: int) -> list[str]:
    return [str(row) for row in range(rows)]


def write(folder: Path, ids: list[str], log_odds: list[float], **options: Any) -> None:
    """Predictions of all rows, in source order."""
    write_predictions(RunFolder(folder), ids, np.array(log_odds), **options)


def submission(folder: Path) -> list[list[str]]:
    with (folder / "submission.csv").open(newline="") as file:
        return list(csv.reader(file))


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(odds=st.lists(ODDS, min_size=1, max_size=30), chunk=st.integers(1, 31))
def test_source_order_and_full_precision(tmp_path: Path, odds: list[float], chunk: int) -> None:
    ids = [f"q,{row}" for row in range(len(odds))]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mv_lightning.artifacts.predictions._CHUNK", chunk)
        write(tmp_path, ids, odds)
    verdicts = [[name, str(value > 0)] for name, value in zip(ids, odds, strict=True)]
    assert submission(tmp_path) == [["ID", "is_correct"], *verdicts]
    with (tmp_path / "probabilities.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["log_odds"]) for line in lines] == odds
    for line, value in zip(lines, odds, strict=True):
        assert float(line["probability"]) == pytest.approx(1 / (1 + math.exp(-value)), rel=1e-12)
    predictions = read_predictions(tmp_path / "probabilities.csv")
    assert predictions.ids == ids and predictions.log_odds_N.tolist() == odds


def test_the_threshold_is_exclusive(tmp_path: Path) -> None:
    write(tmp_path, ["a", "b"], [0.75, 0.76], threshold=0.75)
    assert submission(tmp_path)[1:] == [["a", "False"], ["b", "True"]]


def test_a_row_without_a_score_has_no_numbers_and_the_verdict_false(tmp_path: Path) -> None:
    """Even where the threshold would make any number True."""
    write(tmp_path, ["a", "b", "c"], [-0.5, math.nan, -3.0], threshold=-2.0)
    assert submission(tmp_path)[1:] == [["a", "True"], ["b", "False"], ["c", "False"]]
    assert (tmp_path / "probabilities.csv").read_text().splitlines()[2] == "b,,"
    predictions = read_predictions(tmp_path / "probabilities.csv")
    assert predictions.n_missing == 1
    assert predictions.log_odds_N.tolist() == pytest.approx([-0.5, math.nan, -3.0], nan_ok=True)
    assert predictions.log_odds_of(["b", "a", "c"], "x").tolist() == pytest.approx(
        [math.nan, -0.5, -3.0], nan_ok=True
    )


def test_the_same_predictions_make_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, row_ids(2), [-3.7, 0.1])
    assert (tmp_path / "a" / "probabilities.csv").read_bytes() == (
        tmp_path / "b" / "probabilities.csv"
    ).read_bytes()


@pytest.mark.parametrize(
    ("ids", "sample", "expected"),
    [
        # The rows' log-odds are -1, 2, 3: False, True, True.
        (["2", "1", "0"], "ID,is_correct\n0,x\n1,x\n2,x\n", "0,True 1,True 2,False"),
        (["1", "2", "3"], "\ufeffID,is_correct\r\n3,x\r\n1,x\r\n2,x", "3,True 1,False 2,True"),
        (["q_0", "q_1", "q_2"], "id,is_correct\nq_2,\nq_0,\nq_1,\n", "q_2,True q_0,False q_1,True"),
        (["7.0", "8.0", "9.0"], "Row Id,Is_Correct\n9,0\n8,0\n007,0\n", "9,True 8,True 007,False"),
    ],
)
def test_a_submission_has_the_order_and_spelling_of_the_sample(
    ids: list[str], sample: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "sample.csv").write_text(sample, encoding="utf-8", newline="")
    read = read_sample_submission(tmp_path / "sample.csv", ids)
    write(tmp_path, ids, [-1.0, 2.0, 3.0], sample=read)
    header, *lines = submission(tmp_path)
    assert " ".join(map(",".join, lines)) == expected
    assert ",".join(header) == sample.removeprefix("\ufeff").splitlines()[0]
    assert read_predictions(tmp_path / "probabilities.csv").ids == ids


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("is_correct,ID\nTrue,0\n", "expected a header of two columns.* got is_correct,ID"),
        ("ID,is_correct,more\n0,True,1\n", "expected a header of two columns"),
        (
            "ID,is_correct\n0,True\n1,True\n",
            r"has 2 rows, the source 3\. 1 IDs of the source are not in the sample: 2\.",
        ),
        (
            "ID,is_correct\n" + "".join(f"{i},x\n" for i in range(9)),
            r"6 IDs of the sample are not in the source: 3, 4, 5, 6, 7, \.\.\.",
        ),
        ("ID,is_correct\n0,x\n1,x\n1,x\n2,x\n", "1 IDs occur several times in the sample: 1"),
        ("ID,is_correct\n0,x\n1,x\n1.0,x\n2,x\n", "2 IDs occur several times .*: 1, 1.0"),
        ("ID,is_correct\n0,x\n1,x\ntwo,x\n", "1 IDs of the sample are not in .*: two"),
        ("", "expected a header of two columns.* got "),
        ('ID,is_correct\n"0"x,True\n', "cannot be read as CSV"),
    ],
)
def test_a_sample_of_other_rows_is_refused_with_the_difference(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "sample.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_sample_submission(tmp_path / "sample.csv", row_ids(3))


def test_a_sample_that_is_missing_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_bytes(b"ID,is_correct\n\xff,True\n")
    for name in ("sample.csv", "none.csv"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as CSV"):
            read_sample_submission(tmp_path / name, row_ids(3))


def test_log_odds_are_read_in_the_order_of_any_ids(tmp_path: Path) -> None:
    write(tmp_path, ["b", "3", "a"], [0.5, -1.5, 2.5])
    predictions = read_predictions(tmp_path / "probabilities.csv")
    assert predictions.log_odds_of(["3.0", "a", "b"], "x").tolist() == [-1.5, 2.5, 0.5]
    with pytest.raises(ValueError, match=r"1 IDs of x are not in .*csv: c; 1 IDs of .* in x: a"):
        predictions.log_odds_of(["b", "3", "c"], "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ID,probability\n0,0.5\n", "line 2 has no ID and log_odds"),
        ("ID,log_odds\n0,1\n1\n", "line 3 has no ID and log_odds"),
        ("ID,log_odds\n0,1\n0,2\n", r"ID 0 occurs twice \(line 3\)"),
        ("ID,log_odds\n0,1\n1,nan\n", "line 3 has no ID and log_odds .*nan is not finite"),
        ("ID,log_odds\n0,inf\n", "line 2 has no ID and log_odds .*inf is not finite"),
        ("ID,log_odds\n", "has no rows"),
    ],
)
def test_a_bad_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_predictions(tmp_path / "p.csv")
    with pytest.raises(ValueError, match="no such file"):
        read_predictions(tmp_path / "q.csv")


def test_the_labels_are_of_the_same_rows() -> None:
    ids = row_ids(20)[::-1]
    source, rows_N = load_predicted("synthetic:20", ids)
    assert source.labels_N is not None and rows_N.tolist() == list(range(19, -1, -1))
    with pytest.raises(ValueError, match=r"has 20 rows, the predictions are of 21.*: 20"):
        load_predicted("synthetic:20", row_ids(21))
