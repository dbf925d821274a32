"""IDs are those of the source, spelled as there; row numbers are only for sources without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mv_lightning.data.row_ids import find_id_columns
from mv_lightning.data.sources import load_source
from tests.data.files import ROWS, WRITERS, load, write_csv, write_jsonl


def with_ids(name: str, values: list[Any]) -> list[dict[str, Any]]:
    return [{name: value, **row} for row, value in zip(ROWS, values, strict=True)]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("ids", [[2, 1, 0, 7, 10**15], ["q_0", "007", "7", " x", "é"]], ids=str)
def test_the_source_names_its_rows_in_every_format(
    name: str, ids: list[Any], tmp_path: Path
) -> None:
    source = load(tmp_path / name, with_ids("ID", ids))
    assert source.ids == [str(value) for value in ids]
    assert source.id_column is not None and source.id_column.name == "ID"
    assert source.table.column_names == ["question", "answer", "solution"]
    (tmp_path / "without").mkdir()
    without = load(tmp_path / "without" / name, ROWS)
    assert without.ids == ["0", "1", "2", "3", "4"] and without.id_column is None
    assert without.fingerprint == source.fingerprint


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["question", "id"], ["id"]),
        (["Id"], ["Id"]),
        (["ROW_ID"], ["ROW_ID"]),
        (["row id"], ["row id"]),
        (["index", "rowId"], ["rowId"]),
        (["Index"], ["Index"]),
        (["idx"], ["idx"]),
        (["example-id"], ["example-id"]),
        (["ID", "index", "id"], ["ID", "id"]),
        (["question_id", "identity", "ids", "Unnamed: 0"], []),
        ([], []),
    ],
)
def test_the_column_is_found_by_its_name(names: list[str], found: list[str]) -> None:
    assert find_id_columns(names, None, "rows") == found


def test_the_caller_can_name_the_column_or_number_the_rows(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.csv")
    write_csv(Path(path), [dict(row, key=f"k{i}") for i, row in enumerate(with_ids("id", [0] * 5))])
    assert load_source(path, id_column="key").ids == ["k0", "k1", "k2", "k3", "k4"]
    numbered = load_source(path, id_column="none")
    assert numbered.id_column is None and numbered.ids == ["0", "1", "2", "3", "4"]
    with pytest.raises(ValueError, match=r"expected one ID column 'keys', got id, .*'none'"):
        load_source(path, id_column="keys")
    # A text column may be the ID as well.
    write_csv(Path(path), [dict(row, question=f"q{i}") for i, row in enumerate(ROWS)])
    assert load_source(path, id_column="question").ids == ["q0", "q1", "q2", "q3", "q4"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 1, 3, 2], r"expected IDs that differ.*'id' \('1', '2'; rows 0, 1, 2, 4\).*'none'"),
        (["a", None, "b", "c", None], "expected an ID in every row, got none in 2 rows.*: 1, 4"),
        (["a", "", "b", " ", "c"], "expected an ID in every row, got none in 2 rows.*: 1, 3"),
        ([1.0, float("nan"), 3.0, 4.0, 5.0], "got none in 1 rows.*: 1"),
        ([True, False, True, False, True], "expected text or numbers.*'id', got bool"),
        ([[1], [2], [3], [4], [5]], "expected text or numbers.*'id', got list"),
    ],
    ids=str,
)
def test_unusable_ids_are_refused_only_where_they_are_needed(
    ids: list[Any], message: str, tmp_path: Path
) -> None:
    """Training data may repeat them."""
    source = load(tmp_path / "rows.parquet", with_ids("id", ids))
    assert source.counts["rows"] == 5
    with pytest.raises(ValueError, match=message):
        _ = source.ids


def test_numbers_are_spelled_as_people_write_them(tmp_path: Path) -> None:
    source = load(tmp_path / "rows.parquet", with_ids("id", [1.0, 2.0, 3.5, -4.0, 5.0]))
    assert source.ids == ["1", "2", "3.5", "-4", "5"]
    rows = with_ids("id", [1, "q_1", 2.0, "02", 2**70])
    assert load(tmp_path / "rows.jsonl", rows).ids == ["1", "q_1", "2", "02", str(2**70)]
    # The fields of a CSV are text: kept as they are.
    assert load(tmp_path / "rows.CSV", with_ids("id", ["1.0", "01", "1", "+1", "1e0"])).ids == [
        "1.0",
        "01",
        "1",
        "+1",
        "1e0",
    ]


def test_ids_of_several_files_are_joined(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test-0.jsonl", with_ids("id", list("abcde")))
    write_jsonl(tmp_path / "test-1.jsonl", with_ids("ID", [1, 2, 3, 4, 5]))
    source = load_source(str(tmp_path), split="test")
    assert source.ids == [*"abcde", *"12345"]
    write_jsonl(tmp_path / "test-1.jsonl", ROWS)
    source = load_source(str(tmp_path), split="test")
    with pytest.raises(ValueError, match=r"test-1\.jsonl: no ID column 'id', which another file"):
        _ = source.ids
    write_jsonl(tmp_path / "test-1.jsonl", with_ids("id", [1, 2, "a", 4, 5]))
    with pytest.raises(ValueError, match=r"expected IDs that differ.*'a'; rows 0, 7"):
        _ = load_source(str(tmp_path), split="test").ids


def test_ids_of_a_class_label_or_a_category_are_their_names(tmp_path: Path) -> None:
    features = datasets.Features(
        {name: datasets.Value("string") for name in ("question", "answer", "solution")}
        | {"is_correct": datasets.Value("bool"), "id": datasets.ClassLabel(names=list("vwxyz"))}
    )
    rows = datasets.Dataset.from_list(with_ids("id", [4, 3, 2, 1, 0]), features=features)
    rows.save_to_disk(str(tmp_path / "saved"))
    assert load_source(str(tmp_path / "saved")).ids == list("zyxwv")
    table = pa.Table.from_pylist(with_ids("id", list("vwxyz")))
    table = table.set_column(0, "id", table["id"].dictionary_encode())
    pq.write_table(table, tmp_path / "rows.parquet")
    assert load_source(str(tmp_path / "rows.parquet")).ids == list("vwxyz")


def test_generated_rows_are_numbered() -> None:
    pytest.importorskip("reasoning_gym")
    assert load_source("synthetic:4").ids == ["0", "1", "2", "3"]


def test_two_columns_of_one_name_are_not_guessed_between(tmp_path: Path) -> None:
    rows = [dict(row, ID=f"x{i}") for i, row in enumerate(with_ids("id", [5, 4, 3, 2, 1]))]
    source = load(tmp_path / "rows.CSV", rows)
    with pytest.raises(ValueError, match=r"expected one ID column, got id, ID\. Name the one"):
        _ = source.ids
    assert load_source(source.name, id_column="ID").ids == ["x0", "x1", "x2", "x3", "x4"]
    path = tmp_path / "twice.csv"
    path.write_text("id,id,question,answer,solution,is_correct\n1,2,q,1,s,true\n3,4,r,1,s,false\n")
    twice = load_source(str(path))
    assert twice.counts["rows"] == 2
    with pytest.raises(ValueError, match="expected one ID column, got id, id"):
        _ = twice.ids
