"""Rows of a program are read like those of a file; what is not rows gets one message."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mv_lightning.data.rows import text_columns

ROWS = [
    {"question": "1 + 3?", "answer": "4", "solution": "1 + 3 = 4"},
    {"question": "Why?", "answer": "5", "solution": ""},
]
COLUMNS = pa.Table.from_pylist(ROWS).to_pydict()


@dataclasses.dataclass
class Row:
    question: str = "a"
    answer: str = "b"
    solution: str = "c"


@pytest.mark.parametrize(
    "form",
    [
        lambda: ROWS,
        lambda: iter(ROWS),
        lambda: COLUMNS,
        lambda: {name: np.array(values) for name, values in COLUMNS.items()},
        lambda: pd.DataFrame(ROWS),
        lambda: pd.DataFrame(ROWS).astype("string"),
        lambda: pd.DataFrame(ROWS).astype("category"),
        lambda: [row for _, row in pd.DataFrame(ROWS).iterrows()],
        lambda: datasets.Dataset.from_list(ROWS),
        lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    ],
)
def test_every_form_gives_the_same_texts(form: Callable[[], Any]) -> None:
    assert text_columns(form()) == COLUMNS


def test_a_dict_of_three_texts_is_one_row() -> None:
    one = {name: [value] for name, value in ROWS[0].items()}
    assert text_columns(ROWS[0]) == one
    assert text_columns(pd.DataFrame(ROWS).iloc[0]) == one
    assert text_columns({**ROWS[0], "answer": 4, "solution": None}) == {**one, "solution": [""]}


@pytest.mark.parametrize("null", [None, math.nan, np.float32("nan"), pd.NA, pd.NaT])
def test_a_null_solution_is_empty_and_other_nulls_are_refused(null: object) -> None:
    rows = [dict(ROWS[0], solution=null), ROWS[1]]
    assert text_columns(rows)["solution"] == ["", ""]
    assert text_columns(pd.DataFrame(rows))["solution"] == ["", ""]
    assert text_columns([dict(row, solution=null) for row in ROWS])["solution"] == ["", ""]
    for name in ("question", "answer"):
        with pytest.raises(ValueError, match=f"`{name}` is null in 1 rows: 1"):
            text_columns(pd.DataFrame([ROWS[0], {**ROWS[1], name: null}]))


def test_numbers_among_the_answers_become_text() -> None:
    answers = [4, 4.0, "x", 0.5]
    rows = [dict(ROWS[0], answer=answer) for answer in answers]
    assert text_columns(rows)["answer"] == ["4", "4", "x", "0.5"]


def test_a_class_label_is_its_name() -> None:
    """As in MMLU, whose answers are the classes A to D."""
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "answer": datasets.ClassLabel(names=["A", "B"]),
            "solution": datasets.Value("string"),
        }
    )
    rows = datasets.Dataset.from_dict({**COLUMNS, "answer": [1, 0]}, features=features)
    assert text_columns(rows)["answer"] == ["B", "A"]
    assert text_columns(rows.to_iterable_dataset())["answer"] == ["B", "A"]


@pytest.mark.parametrize(
    ("rows", "got"),
    [
        ("text", "str"),
        (b"text", "bytes"),
        (None, "NoneType"),
        (3, "int"),
        ([("a", "b", "c")], "tuple as number 0"),
        ([ROWS[0], ["a", "b", "c"]], "list as number 1"),
        (["a", "b", "c"], "str as number 0"),
        ([None], "NoneType as number 0"),
        (Row(), "Row"),
        ([Row()], "Row as number 0"),
        (np.zeros((2, 3)), "ndarray as number 0"),
        ({"question": ["a"], "answer": "b", "solution": ["c"]}, "str as the column `answer`"),
        ({"question": ["a"], "answer": ["b"], "solution": None}, "NoneType as the column"),
        (pa.table(COLUMNS), "Table"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_rows_gets_one_message(rows: Any, got: str) -> None:
    with pytest.raises(
        ValueError, match=r"Expected rows with question, answer.*Got .*dicts\."
    ) as e:
        text_columns(rows)
    assert f"Got {got}" in str(e.value)


def test_no_rows_are_none() -> None:
    empty = {"question": [], "answer": [], "solution": []}
    assert text_columns([]) == text_columns(empty) == text_columns(pd.DataFrame(empty)) == empty


def test_an_answer_may_be_a_number_and_a_solution_none() -> None:
    read = text_columns([{"question": "1 + 3?", "answer": 4.0, "solution": None, "more": [1]}])
    assert read == {"question": ["1 + 3?"], "answer": ["4"], "solution": [""]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"question": "a", "answer": "b", "solution": ""}, {"question": "a"}],
            "number 1: no column answer, solution",
        ),
        ({"question": ["a"], "answer": ["b"]}, "the rows: no column solution"),
        ([{"question": " ", "answer": "b", "solution": ""}], "`question` is empty"),
        ([{"question": None, "answer": "b", "solution": ""}], "`question` is null"),
        (
            [{"question": q, "answer": "b", "solution": ""} for q in ("a", 1)],
            "texts of the same type",
        ),
        (
            {"question": ["a"], "answer": ["b", "c"], "solution": [""]},
            "texts of the same type and number",
        ),
        ([{"question": 1, "answer": "b", "solution": ""}], "`question` holds int64"),
        ([{"question": "\ud800", "answer": "b", "solution": ""}], "surrogates not allowed"),
    ],
)
def test_rows_that_are_refused(rows: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        text_columns(rows)  # type: ignore[arg-type]
