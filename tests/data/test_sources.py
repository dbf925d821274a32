"""Every format gives the same rows; everything that is wrong with a source is named, with where and how to mend it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mv_lightning.data.sources import Source, load_source, question_groups

SHARED = Path(__file__).parents[3] / "shared" / "data"
ROWS: list[dict[str, Any]] = [
    {
        "question": "2 + 5?",
        "answer": "007",
        "solution": 'Two, "plus"\nfive,\nis 7',
        "is_correct": True,
    },
    {"question": "10^3?", "answer": "1e3", "solution": "", "is_correct": True},
    {"question": "When?", "answer": "2024-01-31", "solution": "2024-01-31", "is_correct": False},
    {"question": " wHEN? ", "answer": "null", "solution": "NA — ⅓", "is_correct": False},
    {"question": "10^3?", "answer": "1e3", "solution": "", "is_correct": False},
]
COLUMNS = list(ROWS[0])


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_arrow_file(path: Path, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table, max_chunksize=2)


def write_arrow_stream(path: Path, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(str(path), table.schema) as file:
        file.write_table(table)


def write_saved(path: Path, rows: list[dict[str, Any]]) -> None:
    datasets.Dataset.from_list(rows).save_to_disk(str(path))


def write_shards(path: Path, rows: list[dict[str, Any]]) -> None:
    (path / "data").mkdir(parents=True)
    write_parquet(path / "data" / "train-00001-of-00002.parquet", rows[3:])
    write_parquet(path / "data" / "train-00000-of-00002.parquet", rows[:3])
    write_parquet(path / "data" / "test-00000-of-00001.parquet", rows[:1])


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "rows.parquet": write_parquet,
    "rows.jsonl": write_jsonl,
    "rows.json": write_jsonl,
    "rows.CSV": write_csv,
    "rows.arrow": write_arrow_file,
    "stream.arrow": write_arrow_stream,
    "saved": write_saved,
    "shards": write_shards,
}


def load(path: Path, rows: list[dict[str, Any]], **options: Any) -> Source:
    """`rows` by way of a real file in the format that the name of `path` asks for."""
    WRITERS[path.name](path, rows)
    return load_source(str(path), **options)


def changed(row: int, **values: Any) -> list[dict[str, Any]]:
    return [dict(old, **values) if number == row else dict(old) for number, old in enumerate(ROWS)]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_source(name: str, tmp_path: Path) -> None:
    source = load(tmp_path / name, ROWS)
    texts = [{key: row[key] for key in COLUMNS[:3]} for row in ROWS]
    assert source.table.to_list() == texts
    assert {feature.dtype for feature in source.table.features.values()} == {"string"}
    assert source.labels_N is not None
    assert source.labels_N.dtype == bool
    assert source.labels_N.tolist() == [True, True, False, False, False]
    assert source.question_ids_N.tolist() == [0, 1, 2, 2, 1]
    assert source.name == str(tmp_path / name)
    assert source.counts == {
        "rows": 5,
        "distinct_questions": 3,
        "duplicates": 1,
        "converted_answers": 0,
        "empty_answers": 0,
        "empty_solutions": 2,
    }
    write_parquet(tmp_path / "reference.parquet", ROWS)
    assert source.fingerprint == load_source(str(tmp_path / "reference.parquet")).fingerprint


@pytest.mark.parametrize("name", WRITERS)
def test_rows_to_predict_need_no_labels(name: str, tmp_path: Path) -> None:
    unlabelled = [{key: row[key] for key in ("solution", "answer", "question")} for row in ROWS]
    source = load(tmp_path / name, unlabelled, labelled=False)
    assert source.labels_N is None
    assert source.table["answer"][:] == [row["answer"] for row in ROWS]
    (tmp_path / "labelled").mkdir()
    labelled = load(tmp_path / "labelled" / name, ROWS, labelled=False)
    assert labelled.fingerprint == source.fingerprint
    assert load_source(labelled.name).fingerprint != source.fingerprint
    with pytest.raises(ValueError, match=r"no column is_correct.*can only be predicted"):
        load_source(source.name)


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
    table = pa.table(
        {name: pa.array([f"{row[i]}." for row in rows]) for i, name in enumerate(COLUMNS[:3])}
        | {"is_correct": pa.array([row[0] == "1" for row in rows])}
    )
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
@given(st.lists(st.text("aAbÉé \t\n\u00a0", max_size=6), max_size=20))
def test_question_groups_are_those_of_plain_python(questions: list[str]) -> None:
    table = datasets.Dataset(pa.table({"question": pa.array(questions, pa.string())}))
    question_ids_N = question_groups(table)
    plain = [" ".join(question.lower().split()) for question in questions]
    assert question_ids_N.dtype == np.int64
    assert question_ids_N.shape == (len(questions),)
    assert sorted(set(question_ids_N.tolist())) == list(range(len(set(plain))))
    assert [[a == b for b in plain] for a in plain] == (
        question_ids_N[:, None] == question_ids_N
    ).tolist()
    picked = table.select(range(len(questions))[::-1])
    assert len(set(question_groups(picked).tolist())) == len(set(plain))


@pytest.mark.parametrize(
    "values",
    [
        ["true", " True", "FALSE ", "no", "No"],
        ["yes", "YES", "false", "False", "0"],
        ["1", "1", "0", "0", "0"],
        [1, 1, 0, 0, 0],
        [1.0, 1.0, 0.0, 0.0, 0.0],
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "rows.CSV"])
def test_usual_spellings_of_labels_are_read(name: str, values: list[Any], tmp_path: Path) -> None:
    rows = [dict(row, is_correct=value) for row, value in zip(ROWS, values, strict=True)]
    assert load(tmp_path / name, rows).labels_N.tolist() == [True, True, False, False, False]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        (["true", "maybe", "false", "", "no"], "'maybe', ''.*2 rows: 1, 3"),
        ([1, 2, 0, -1, 0], "2, -1.*2 rows: 1, 3"),
        ([1.0, 0.5, 0.0, 0.0, 0.0], "0.5.*1 rows: 1"),
        ([True, None, False, None, False], "null in 2 rows: 1, 3"),
        ([[1], [1], [0], [0], [0]], "holds list"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_other_labels_are_refused(name: str, values: list[Any], rows: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"`is_correct`.*{rows}.*true/false, yes/no or 1/0"):
        load(
            tmp_path / name,
            [dict(row, is_correct=value) for row, value in zip(ROWS, values, strict=True)],
        )


@pytest.mark.parametrize("name", WRITERS)
def test_labels_are_read_where_there_are_any(name: str, tmp_path: Path) -> None:
    assert (
        load(tmp_path / name, ROWS, labelled=None).fingerprint
        == load_source(str(tmp_path / name)).fingerprint
    )
    (tmp_path / "without").mkdir()
    without = load(
        tmp_path / "without" / name,
        [{key: row[key] for key in COLUMNS[:3]} for row in ROWS],
        labelled=None,
    )
    assert without.labels_N is None
    (tmp_path / "empty").mkdir()
    empty = load(
        tmp_path / "empty" / name, [dict(row, is_correct=None) for row in ROWS], labelled=None
    )
    assert empty.labels_N is None and empty.fingerprint == without.fingerprint


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "rows.CSV"])
@pytest.mark.parametrize("value", [None, "maybe"])
def test_labels_in_some_rows_only_are_refused(name: str, value: str | None, tmp_path: Path) -> None:
    rows = [dict(row, is_correct=str(row["is_correct"])) for row in ROWS[:4]] + [
        dict(ROWS[4], is_correct=value)
    ]
    with pytest.raises(
        ValueError,
        match=r"`is_correct`.* in 1 rows: 4\. .*can only be predicted, from a file without",
    ):
        load(tmp_path / name, rows, labelled=None)


def test_labels_in_some_files_only_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test-0.jsonl", ROWS[:2])
    write_jsonl(
        tmp_path / "test-1.jsonl", [{key: row[key] for key in COLUMNS[:3]} for row in ROWS[2:]]
    )
    with pytest.raises(ValueError, match="1 of 2 files have labels"):
        load_source(str(tmp_path), split="test", labelled=None)


@pytest.mark.parametrize(
    "column", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), "string")]
)
def test_text_of_every_layout_is_read(column: pa.DataType, tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    for name in COLUMNS[:3]:
        table = table.set_column(table.column_names.index(name), name, table[name].cast(column))
    with pa.ipc.new_file(str(tmp_path / "rows.arrow"), table.schema) as file:
        file.write_table(table)
    source = load_source(str(tmp_path / "rows.arrow"))
    assert source.table.to_list() == [{key: row[key] for key in COLUMNS[:3]} for row in ROWS]


@pytest.mark.parametrize(
    ("numbers", "texts"),
    [
        (pa.array([4, -4, 0, 10**18, 3]), ["4", "-4", "0", str(10**18), "3"]),
        (pa.array([4.0, -0.5, 1e15, 0.1, -0.0]), ["4", "-0.5", "1000000000000000", "0.1", "0"]),
        (
            pa.array([4.0, 0.1, 16777216.0, 2.5, -1.0], pa.float32()),
            ["4", "0.1", "16777216", "2.5", "-1"],
        ),
        (
            pa.array(["4.00", "2.50", "0.10", "-1.00", "10.00"]).cast(pa.decimal128(9, 2)),
            ["4", "2.50", "0.10", "-1", "10"],
        ),
    ],
    ids=lambda value: str(value[0]),
)
def test_answers_that_are_numbers_become_text(
    numbers: pa.Array, texts: list[str], tmp_path: Path
) -> None:
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table.set_column(1, "answer", numbers), tmp_path / "rows.parquet")
    source = load_source(str(tmp_path / "rows.parquet"))
    assert source.table["answer"][:] == texts
    assert source.counts["converted_answers"] == 5


@pytest.mark.parametrize(
    "answers", [[4, 5, 6, 7, 8], [4, 5, 6.5, 7, 8], [4.0, 5, 6.5, 7, 8]], ids=str
)
def test_numbers_in_jsonl_become_text(answers: list[float], tmp_path: Path) -> None:
    rows = [dict(row, answer=answer) for row, answer in zip(ROWS, answers, strict=True)]
    assert load(tmp_path / "rows.jsonl", rows).table["answer"][:] == [
        f"{answer:g}" for answer in answers
    ]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            pa.array([2.0**53, 1.0, 1.0, 1.0, 1.0]),
            "too large to be exact .9007199254740992.0.*1 rows: 0.*as strings",
        ),
        (pa.array([1.0, float("inf"), 1.0, 1.0, 1.0]), "too large to be exact .inf.*1 rows: 1"),
        (pa.array([1.0, float("nan"), None, 1.0, 1.0]), "`answer` is null in 2 rows: 1, 2"),
        (pa.array([True] * 5), "`answer` holds bool"),
        (pa.array([b"x"] * 5), "`answer` holds binary"),
        (pa.array([["x"]] * 5), "`answer` holds list"),
        (pa.nulls(5), "`answer` is null in 5 rows: 0, 1, 2, 3, 4"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value.type),
)
def test_other_answers_are_refused(answers: pa.Array, message: str, tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table.set_column(1, "answer", answers), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=message):
        load_source(str(tmp_path / "rows.parquet"))


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, "`question` is null in 1 rows: 2. Fill"),
        ({"answer": None}, "`answer` is null in 1 rows: 2. Fill"),
        ({"question": ""}, "`question` is empty or only whitespace in 1 rows: 2. Fill"),
        ({"question": " \n\t\u00a0"}, "`question` is empty or only whitespace in 1 rows: 2. Fill"),
        (
            {"answer": "", "is_correct": True},
            "`answer` is empty.*`is_correct` is true, in 1 rows: 2. Fill",
        ),
        (
            {"answer": " ", "is_correct": True},
            "`answer` is empty.*`is_correct` is true, in 1 rows: 2. Fill",
        ),
    ],
)
def test_gaps_are_refused_with_their_rows(
    name: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path / name, changed(2, **change))


def test_many_bad_rows_are_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    rows = [dict(ROWS[0], question="?" if row < 3 else " ") for row in range(2_000)]
    with pytest.raises(ValueError, match=r"in 1,997 rows: 3, 4, 5, 6, 7, \.\.\."):
        load(tmp_path / "rows.parquet", rows)


def test_an_answer_that_a_wrong_solution_never_gave_is_counted(tmp_path: Path) -> None:
    assert load(tmp_path / "rows.CSV", changed(2, answer="")).counts["empty_answers"] == 1
    assert (
        load(tmp_path / "rows.CSV", changed(0, answer=" "), labelled=False).counts["empty_answers"]
        == 1
    )


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_a_null_solution_is_an_empty_one(name: str, tmp_path: Path) -> None:
    source = load(tmp_path / name, changed(0, solution=None))
    assert source.table["solution"][0] == ""
    assert source.counts["empty_solutions"] == 3
    assert source.fingerprint == load(tmp_path / "rows.CSV", changed(0, solution="")).fingerprint
    nothing = load(tmp_path / name, [dict(row, solution=None) for row in ROWS])
    assert nothing.counts["empty_solutions"] == 5


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_column_is_named(name: str, column: str, tmp_path: Path) -> None:
    rows = [
        {("x_" if key == column else "") + key: value for key, value in row.items()} for row in ROWS
    ]
    with pytest.raises(
        ValueError, match=f"no column {column}. Needed are question, .*columns are .*x_{column}"
    ):
        load(tmp_path / name, rows)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
@pytest.mark.parametrize("column", ["question", "solution"])
def test_numbers_elsewhere_are_refused(name: str, column: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"`{column}` holds int64. Needed is text"):
        load(tmp_path / name, [dict(row, **{column: 4}) for row in ROWS])


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "rows.CSV", "rows.arrow", "saved"])
def test_the_kind_of_error_is_kept(name: str, tmp_path: Path) -> None:
    kinds = ["none", "none", "slip", "operation", "slip"]
    rows = [dict(row, error=kind) for row, kind in zip(ROWS, kinds, strict=True)]
    source = load(tmp_path / name, rows)
    assert source.table.column_names == ["question", "answer", "solution", "error"]
    assert source.table["error"][:] == kinds


def test_kinds_of_error_have_no_nulls_and_are_text(tmp_path: Path) -> None:
    source = load(
        tmp_path / "rows.parquet",
        [dict(row, error="slip" if row is ROWS[2] else None) for row in ROWS],
    )
    assert source.table["error"][:] == ["", "", "slip", "", ""]
    assert (
        load(tmp_path / "rows.parquet", [dict(row, error=0.5) for row in ROWS]).table.num_columns
        == 3
    )
    (tmp_path / "mixed").mkdir()
    write_jsonl(tmp_path / "mixed" / "train-0.jsonl", ROWS[:2])
    write_jsonl(tmp_path / "mixed" / "train-1.jsonl", [dict(ROWS[2], error="slip")])
    assert load_source(str(tmp_path / "mixed")).table["error"][:] == ["", "", "slip"]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "rows.CSV", "rows.arrow", "saved"])
def test_other_columns_are_left_out(name: str, tmp_path: Path) -> None:
    source = load(
        tmp_path / name, [dict(row, id=number, note="x") for number, row in enumerate(ROWS)]
    )
    assert source.table.column_names == COLUMNS[:3]


def test_odd_values_in_other_columns_do_no_harm(tmp_path: Path) -> None:
    rows = [
        dict(row, note=note) for row, note in zip(ROWS, [1, "x", [2], None, {"y": 1}], strict=True)
    ]
    assert load(tmp_path / "rows.jsonl", rows).counts["rows"] == 5


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.CSV"])
def test_rows_of_megabytes_are_read_across_blocks(name: str, tmp_path: Path) -> None:
    rows = [dict(ROWS[0], solution=f"line {number},\n" * 300_000) for number in range(7)]
    assert load(tmp_path / name, rows).table["solution"][:] == [row["solution"] for row in rows]


def test_no_rows_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS).slice(0, 0), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text(",".join(COLUMNS) + "\n")
    (tmp_path / "rows.jsonl").write_text("\n \n")
    for name in ("rows.parquet", "rows.csv", "rows.jsonl"):
        with pytest.raises(ValueError, match="no rows"):
            load_source(str(tmp_path / name))


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer,answer,solution,is_correct\nq,1,2,s,true\n")
    with pytest.raises(ValueError, match="answer stands there more than once"):
        load_source(str(tmp_path / "rows.csv"))


@pytest.mark.parametrize("keep", [0, 3, 200, -4])
@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow", "stream.arrow"])
def test_files_cut_short_are_refused(name: str, keep: int, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path, ROWS)
    path.write_bytes(path.read_bytes()[: keep if name != "stream.arrow" or keep >= 0 else -40])
    with pytest.raises(ValueError, match=r"rows|stream") as caught:
        load_source(str(path))
    assert "damaged, cut short" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('q,1,"never closed,true\nq,2,s,true\n', "line 2 begins a field that is never closed"),
        ("q,1,s\n", "cannot be read as csv.*Expected 4 columns, got 3"),
        ("q,1,a,b,true\n", "cannot be read as csv.*Expected 4 columns, got 5"),
        ("qé,1,s,true\n", "cannot be read as csv.*UTF8.*must be UTF-8"),
        (
            'q,1,"never closed,true\nq,2,"s,true\n',
            "line 3 ends a field, but no comma.*begins in line 2 is never closed",
        ),
        ('q,1,5" by 6",true\n', "line 2 stands within a field that does not begin with one"),
        ('q,1,"s" ,true\n', "line 2 ends a field, but no comma follows"),
        ('q,1,"a ""b"",true\n', "line 2 begins a field that is never closed"),
    ],
)
def test_broken_csv_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes((",".join(COLUMNS) + "\n" + text).encode("latin-1"))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load_source(str(path))


def test_an_unclosed_quote_in_the_last_column_loses_no_rows_silently(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('question,is_correct,answer,solution\nq,true,1,"never closed\nq,true,2,s\n')
    with pytest.raises(ValueError, match="never closed"):
        load_source(str(path))


@pytest.mark.parametrize("name", ["rows.CSV", "rows.jsonl"])
def test_utf16_is_refused_and_a_byte_order_mark_of_utf8_is_not(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, ROWS)
    text = (tmp_path / name).read_text(encoding="utf-8")
    (tmp_path / name).write_text(text, encoding="utf-8-sig", newline="")
    assert load_source(str(tmp_path / name)).counts["rows"] == 5
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        (tmp_path / name).write_text(text, encoding=encoding)
        with pytest.raises(ValueError, match=r"UTF-16.*iconv"):
            load_source(str(tmp_path / name))


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(*[st.text('ab,"\r\n é', max_size=5)] * 3), min_size=1, max_size=6))
def test_whatever_csv_writes_is_read_back(
    rows: list[tuple[str, str, str]], tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("csv") / "rows.CSV"
    wanted = [{"question": f"?{q}", "answer": a, "solution": s} for q, a, s in rows]
    write_csv(path, wanted)
    assert load_source(str(path), labelled=False).table.to_list() == wanted


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "rows.CSV", "rows.arrow"])
def test_control_characters_and_templates_are_kept(name: str, tmp_path: Path) -> None:
    text = (
        "".join(map(chr, range(32)))
        + "\x7f\x85\u2028\ufeff\U0010ffff {} {{ }} {question} %s <|eot|>"
    )
    assert load(tmp_path / name, changed(0, question=text)).table["question"][0] == text


@pytest.mark.parametrize("text", ["", "a;b;c\n1;2;3\n"])
def test_csv_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(
        ValueError, match=r"cannot be read as csv|no column question.*the columns are a;b;c"
    ):
        load_source(str(tmp_path / "rows.csv"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"question": ', "line 4 is not a JSON object: Expecting value"),
        (b"[1]", "line 4 is not a JSON object: it holds a list"),
        (
            json.dumps(dict(ROWS[0], question="é"), ensure_ascii=False).encode("latin-1"),
            "line 4 is not a JSON object: 'utf-8' codec",
        ),
        (
            json.dumps(dict(ROWS[0], answer=7)).encode(),
            "line 4: `answer` is of type number, in earlier lines of type str",
        ),
        (
            json.dumps(dict(ROWS[0], is_correct="yes")).encode(),
            "line 4: `is_correct` is of type str",
        ),
        (
            json.dumps(dict(ROWS[0], solution="\ud83d")).encode(),
            r"line 4: `solution` holds half a character",
        ),
        (json.dumps({"question": "q"}).encode(), "`is_correct` is null in 1 rows: 2"),
    ],
)
def test_a_bad_line_of_jsonl_is_named(line: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = [json.dumps(row).encode() for row in ROWS]
    path.write_bytes(b"\n".join([good[0], b"", good[1], line, good[2]]))
    with pytest.raises(ValueError, match=message):
        load_source(str(path))


def test_a_bad_first_line_and_a_json_array_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, indent=2))
    with pytest.raises(ValueError, match=r"line 1 is not a JSON object.*jq -c '\.\[\]'"):
        load_source(str(path))


def test_numbers_beyond_64_bits_in_jsonl_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be kept exactly.*as strings"):
        load(tmp_path / "rows.jsonl", [dict(ROWS[0], answer=answer) for answer in (1, 2**70)])


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    answers = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xe9"]).buffers())
    table = pa.Table.from_pylist(ROWS[:1]).set_column(1, "answer", answers)
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"`answer`: .*UTF8.*as UTF-8"):
        load_source(str(tmp_path / "rows.parquet"))


def test_a_folder_gives_the_split_asked_for(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", ROWS)
    write_csv(tmp_path / "test.csv", ROWS[:2])
    (tmp_path / "sample_submission.csv").write_text("ID,is_correct\n0,True\n")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "train.csv").write_text("damaged")
    assert load_source(str(tmp_path)).counts["rows"] == 5
    assert load_source(str(tmp_path), split="test").counts["rows"] == 2
    with pytest.raises(
        ValueError, match=r"no file is named after the split 'val'.*'test\.csv', 'train\.csv'"
    ):
        load_source(str(tmp_path), split="val")


def test_a_folder_without_split_names_is_train(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "latest.jsonl", ROWS)
    (tmp_path / "README.md").write_text("about")
    assert load_source(str(tmp_path)).counts["rows"] == 5
    with pytest.raises(ValueError, match=r"'latest\.jsonl'\. Name the file itself"):
        load_source(str(tmp_path), split="test")


def test_folders_that_hold_no_one_data_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data file in this folder"):
        load_source(str(tmp_path))
    write_csv(tmp_path / "a.csv", ROWS)
    write_jsonl(tmp_path / "b.jsonl", ROWS)
    with pytest.raises(ValueError, match=r"2 formats.*'a\.csv', 'b\.jsonl'"):
        load_source(str(tmp_path))


def test_saved_datasets_with_splits_and_with_indices_are_read(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    splits = datasets.DatasetDict(train=rows.select([4, 0]), test=rows.select([1]))
    splits.save_to_disk(str(tmp_path / "saved"))
    source = load_source(str(tmp_path / "saved"))
    assert source.table["question"][:] == [ROWS[4]["question"], ROWS[0]["question"]]
    assert load_source(str(tmp_path / "saved"), split="test").counts["rows"] == 1
    with pytest.raises(ValueError, match=r"no split 'val' in the saved dataset.*'test', 'train'"):
        load_source(str(tmp_path / "saved"), split="val")
    (tmp_path / "saved" / "train" / "data-00000-of-00001.arrow").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="saved dataset cannot be read"):
        load_source(str(tmp_path / "saved"))


@pytest.mark.parametrize(
    "name", ["no.parquet", "./no", "~/no/such", "/no/such", "one/two/three", "some/rows.jsonl"]
)
def test_a_path_that_does_not_exist_is_no_hub_id(name: str) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        load_source(name)


def test_names_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name of the source is empty"):
        load_source(" ")
    (tmp_path / "rows.tsv").write_text("x")
    with pytest.raises(ValueError, match=r"cannot read \.tsv\. Use \.parquet"):
        load_source(str(tmp_path / "rows.tsv"))


def test_sample_rows_are_generated() -> None:
    source = load_source("synthetic:40")
    assert source.labels_N is not None
    assert (len(source.labels_N), source.labels_N.sum()) == (40, 20)
    assert source.table.column_names == ["question", "answer", "solution", "error"]
    assert load_source("synthetic:40").fingerprint == source.fingerprint
    assert load_source("synthetic:40", split="test").fingerprint != source.fingerprint
    for name in ("synthetic:", "synthetic:many", "synthetic:0", "synthetic:-2"):
        with pytest.raises(ValueError, match="is not a number of rows"):
            load_source(name)


def test_the_hub_out_of_reach_is_one_message_and_files_leave_no_cache(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", ROWS)
    program = (
        "import sys; from mv_lightning.data.sources import load_source\n"
        "print(load_source(sys.argv[1]).counts['rows'])\n"
        "try: load_source('someone/a-dataset')\n"
        "except ValueError as error: print(error)\n"
    )
    cache = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "rows.csv")],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    rows, message = done.stdout.splitlines()
    assert rows == "5"
    assert message.startswith("someone/a-dataset: no file or folder of that name is here")
    assert "hf download someone/a-dataset --repo-type dataset --local-dir FOLDER" in message
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert done.stderr == ""


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real solutions: {SHARED} is absent")
@pytest.mark.parametrize(
    ("name", "rows", "true", "empty"),
    [
        ("gsm8k_solutions", 3_712, 0.385, 8),
        ("mathcoder_solutions/labelled.parquet", 6_273, 0.400, 0),
    ],
)
def test_real_solutions_are_read(name: str, rows: int, true: float, empty: int) -> None:
    source = load_source(str(SHARED / name))
    assert source.labels_N is not None
    assert source.labels_N.mean() == pytest.approx(true, abs=0.0005)
    assert (source.counts["rows"], source.counts["empty_answers"]) == (rows, empty)
    assert (
        source.counts["distinct_questions"] == len(np.unique(question_groups(source.table))) < rows
    )
