"""Texts and labels are read in every usual form; anything else is refused with its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mv_lightning.data.sources import load_source
from tests.data.files import COLUMNS, ROWS, WRITERS, changed, load, only, write_jsonl


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
        only(ROWS, *COLUMNS[:3]),
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
    assert source.table.to_list() == only(ROWS, *COLUMNS[:3])


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
    rows = []
    for row in ROWS:
        others = {key: value for key, value in row.items() if key != column}
        rows.append({f"x_{column}": row[column], **others})
    with pytest.raises(
        ValueError, match=f"no column {column}: expected question, .*got .*x_{column}"
    ):
        load(tmp_path / name, rows)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
@pytest.mark.parametrize("column", ["question", "solution"])
def test_numbers_elsewhere_are_refused(name: str, column: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"`{column}` holds int64: expected text"):
        load(tmp_path / name, [dict(row, **{column: 4}) for row in ROWS])


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "rows.CSV", "rows.arrow", "saved"])
def test_kind_of_error_and_level_are_kept(name: str, tmp_path: Path) -> None:
    kinds = ["none", "none", "slip", "operation", "slip"]
    levels = [1, 12, 2, 1, 3]
    rows = [
        dict(row, level=level, error=kind)
        for row, kind, level in zip(ROWS, kinds, levels, strict=True)
    ]
    source = load(tmp_path / name, rows)
    assert source.table.column_names == ["question", "answer", "solution", "error", "level"]
    assert source.table["error"][:] == kinds
    assert source.table["level"][:] == ["1", "12", "2", "1", "3"]


def test_levels_may_be_text_or_missing(tmp_path: Path) -> None:
    texts = [dict(row, level="hard") for row in ROWS]
    assert load(tmp_path / "rows.jsonl", texts).table["level"][:] == ["hard"] * len(ROWS)
    some = [dict(row, level=7 if row is ROWS[1] else None) for row in ROWS]
    assert load(tmp_path / "rows.parquet", some).table["level"][:] == ["", "7", "", "", ""]


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


def test_a_repeated_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer,answer,solution,is_correct\nq,1,2,s,true\n")
    with pytest.raises(ValueError, match="several columns are named answer"):
        load_source(str(tmp_path / "rows.csv"))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    answers = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xe9"]).buffers())
    table = pa.Table.from_pylist(ROWS[:1]).set_column(1, "answer", answers)
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"`answer`: .*UTF8.*as UTF-8"):
        load_source(str(tmp_path / "rows.parquet"))
