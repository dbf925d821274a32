"""The content is identified whatever file it comes from."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mv_lightning.data import fingerprint
from mv_lightning.data.fingerprint import count_shared, question_ids
from mv_lightning.data.sources import load_source
from tests.data.files import COLUMNS, ROWS, changed, load

OF_ROWS = "a801e865bf9f225dd5051990efa211c70c90543244af41dcd9ba2f537dd0a312"


@pytest.mark.parametrize(
    "change",
    [{"question": "2 + 6?"}, {"answer": "7"}, {"solution": "x"}, {"is_correct": False}],
    ids=str,
)
def test_the_fingerprint_sees_every_column(change: dict[str, Any], tmp_path: Path) -> None:
    before = load(tmp_path / "rows.parquet", ROWS).fingerprint
    assert load(tmp_path / "rows.parquet", changed(0, **change)).fingerprint != before
    assert load(tmp_path / "rows.parquet", ROWS[::-1]).fingerprint != before


def test_the_fingerprint_sees_where_a_text_ends(tmp_path: Path) -> None:
    one = load(
        tmp_path / "rows.parquet", [dict(ROWS[0], question="ab"), dict(ROWS[0], question="c")]
    )
    other = load(
        tmp_path / "rows.parquet", [dict(ROWS[0], question="a"), dict(ROWS[0], question="bc")]
    )
    assert one.fingerprint != other.fingerprint


def test_the_fingerprint_is_the_same_in_every_release(tmp_path: Path) -> None:
    assert load(tmp_path / "rows.parquet", ROWS).fingerprint == OF_ROWS


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.tuples(*[st.sampled_from(["1", "2", "11", " "])] * 3), min_size=1, max_size=12
    ),
    size=st.integers(1, 5),
)
def test_counts_and_fingerprint_do_not_depend_on_chunks(
    rows: list[tuple[str, str, str]], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("chunks") / "rows.arrow"
    columns = {"is_correct": pa.array([row[0] == "1" for row in rows])}
    for i, name in enumerate(COLUMNS[:3]):
        columns[name] = pa.array([f"{row[i]}." for row in rows])
    table = pa.table(columns)
    sources = []
    for chunk in (len(rows), size):
        with pa.ipc.new_stream(str(path), table.schema) as file:
            file.write_table(table, max_chunksize=chunk)
        sources.append(load_source(str(path)))
    assert sources[0].fingerprint == sources[1].fingerprint
    assert sources[0].counts == sources[1].counts
    assert sources[0].counts["duplicates"] == len(rows) - len(set(rows))
    assert np.array_equal(sources[0].question_ids_N, sources[1].question_ids_N)


@settings(max_examples=200, deadline=None)
@given(
    questions=st.lists(st.text("aAbÉé \t\n\u00a0", max_size=6), max_size=20),
    cuts=st.lists(st.integers(0, 20), max_size=3),
    size=st.integers(1, 4),
)
def test_question_ids_are_those_of_plain_python(
    questions: list[str], cuts: list[int], size: int
) -> None:
    """Splits that are grouped by question depend on the numbers, too, not only on what is equal."""
    whole = pa.array(questions, pa.string())
    chunks = []
    for start, end in itertools.pairwise([0, *sorted(cuts), len(whole)]):
        chunks.append(whole[start:end])
    with mock.patch.object(fingerprint, "_SLICE_ROWS", size):
        question_ids_N = question_ids(pa.chunked_array(chunks, pa.string()))
    plain = [" ".join(question.lower().split()) for question in questions]
    number = {question: place for place, question in enumerate(dict.fromkeys(plain))}
    assert question_ids_N.dtype == np.int64
    assert question_ids_N.tolist() == [number[question] for question in plain]


def test_shared_questions_are_counted_once_and_in_any_spelling() -> None:
    first, second = ["a  b", "c", "A b", "d"], ["x", " a B", "a b", "D"]
    assert count_shared(first, second) == count_shared(second, first) == 2
    assert count_shared(first, ["x"]) == count_shared([], second) == 0
