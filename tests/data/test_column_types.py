"""A type that has a meaning is read as it is meant, or refused: 0 may be the class "correct"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mv_lightning.data.sources import load_source
from tests.data.files import ROWS

LABELS = [row["is_correct"] for row in ROWS]


def dataset(names: list[str], labels: list[int]) -> datasets.Dataset:
    text = datasets.Value("string")
    features = datasets.Features(
        question=text, answer=text, solution=text, is_correct=datasets.ClassLabel(names=names)
    )
    rows = [dict(row, is_correct=label) for row, label in zip(ROWS, labels, strict=True)]
    return datasets.Dataset.from_list(rows, features=features)


def save_folder(rows: datasets.Dataset, path: Path) -> None:
    rows.save_to_disk(str(path))


def save_splits(rows: datasets.Dataset, path: Path) -> None:
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(str(path))


def save_parquet(rows: datasets.Dataset, path: Path) -> None:
    rows.to_parquet(str(path))


def save_arrow(rows: datasets.Dataset, path: Path) -> None:
    table = rows.data.table
    with pa.ipc.new_stream(str(path), table.schema) as file:
        file.write_table(table)


WRITERS: dict[str, Callable[[datasets.Dataset, Path], None]] = {
    "saved": save_folder,
    "splits": save_splits,
    "rows.parquet": save_parquet,
    "rows.arrow": save_arrow,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    ("true", "false"),
    [("correct", "incorrect"), ("True", "False"), ("yes", "no"), ("1", "0"), ("right", "wrong")],
)
@pytest.mark.parametrize("true_class", [0, 1])
def test_class_labels_are_read_by_name(
    writer: str, true: str, false: str, true_class: int, tmp_path: Path
) -> None:
    names = [true, false] if true_class == 0 else [false, true]
    classes = [true_class if label else 1 - true_class for label in LABELS]
    WRITERS[writer](dataset(names, classes), tmp_path / writer)
    source = load_source(str(tmp_path / writer))
    assert source.labels_N is not None and source.labels_N.tolist() == LABELS


def test_a_hub_dataset_is_read_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = dataset(["correct", "incorrect"], [0, 0, 1, 1, 1])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: rows)
    source = load_source("someone/rows")
    assert source.labels_N is not None and source.labels_N.tolist() == LABELS


@pytest.mark.parametrize("writer", WRITERS)
def test_classes_without_a_usable_name_are_refused(writer: str, tmp_path: Path) -> None:
    WRITERS[writer](dataset(["neg", "pos"], [1, 1, 0, 0, 0]), tmp_path / writer)
    with pytest.raises(ValueError, match=r"`is_correct` is not a label \('pos', 'pos', 'neg'"):
        load_source(str(tmp_path / writer))


def test_the_class_of_unlabelled_rows_is_a_null(tmp_path: Path) -> None:
    save_parquet(dataset(["correct", "incorrect"], [-1] * 5), tmp_path / "rows.parquet")
    assert load_source(str(tmp_path / "rows.parquet"), labelled=None).labels_N is None
    with pytest.raises(ValueError, match="`is_correct` is null in 5 rows"):
        load_source(str(tmp_path / "rows.parquet"))


def replaced(name: str, column: pa.Array, field: pa.Field | None = None) -> pa.Table:
    table = pa.Table.from_pylist(ROWS)
    index = table.column_names.index(name)
    return table.set_column(index, field or name, column)


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["correct", "correct", "incorrect", "incorrect", "incorrect"]),
        pa.array([1, 1, 0, 0, 0], pa.int8()),
        pa.array(LABELS),
    ],
    ids=lambda values: str(values.type),
)
def test_categories_are_read_by_their_values(values: pa.Array, tmp_path: Path) -> None:
    """As pandas and polars write categoricals and enums."""
    pq.write_table(replaced("is_correct", values.dictionary_encode()), tmp_path / "rows.parquet")
    source = load_source(str(tmp_path / "rows.parquet"))
    assert source.labels_N is not None and source.labels_N.tolist() == LABELS


def test_arrows_own_boolean_of_one_byte_is_read(tmp_path: Path) -> None:
    stored = pa.array([1, 7, 0, 0, 0], pa.int8())
    table = replaced("is_correct", pa.ExtensionArray.from_storage(pa.bool8(), stored))
    pq.write_table(table, tmp_path / "rows.parquet")
    source = load_source(str(tmp_path / "rows.parquet"))
    assert source.labels_N is not None and source.labels_N.tolist() == LABELS


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize(
    ("name", "stored"),
    [("is_correct", pa.array([1, 1, 0, 0, 0], pa.int8())), ("answer", pa.array(list("abcde")))],
)
def test_types_of_unknown_meaning_are_refused(
    name: str, stored: pa.Array, suffix: str, tmp_path: Path
) -> None:
    """Arrow reads a type that it does not know as its storage, and keeps the name beside it."""
    metadata = {"ARROW:extension:name": "my.inverted", "ARROW:extension:metadata": ""}
    table = replaced(name, stored, pa.field(name, stored.type, metadata=metadata))
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(str(path), table.schema) as file:
            file.write_table(table)
    with pytest.raises(ValueError, match=f"`{name}` holds the extension type my.inverted"):
        load_source(str(path))


def test_an_extension_type_that_arrow_knows_is_refused(tmp_path: Path) -> None:
    stored = pa.array([f'"{row["answer"]}"' for row in ROWS])
    table = replaced("answer", pa.ExtensionArray.from_storage(pa.json_(), stored))
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"`answer` holds the extension type arrow\.json"):
        load_source(str(tmp_path / "rows.parquet"))


def test_answers_that_are_classes_become_their_names(tmp_path: Path) -> None:
    text = datasets.Value("string")
    features: dict[str, Any] = {"question": text, "solution": text}
    features |= {
        "answer": datasets.ClassLabel(names=["A", "B"]),
        "is_correct": datasets.Value("bool"),
    }
    rows = [dict(row, answer=index % 2) for index, row in enumerate(ROWS)]
    saved = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    saved.save_to_disk(str(tmp_path / "saved"))
    source = load_source(str(tmp_path / "saved"))
    assert source.table["answer"][:] == list("ABABA") and source.counts["converted_answers"] == 0
