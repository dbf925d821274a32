"""The same rows in every format."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from mv_lightning.data.sources import Source, load_source

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


def only(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """The rows with these columns, in this order."""
    return pa.Table.from_pylist(rows).select(names).to_pylist()


def changed(row: int, **values: Any) -> list[dict[str, Any]]:
    return [dict(old, **values) if number == row else dict(old) for number, old in enumerate(ROWS)]
