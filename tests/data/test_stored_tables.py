"""A table in a file is the table that would be in memory."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mv_lightning.data import readers, stored_tables
from mv_lightning.data.sources import load_source
from mv_lightning.data.stored_tables import stored_table
from tests.data.files import COLUMNS, ROWS, load

ID_ROWS = [dict(row, id=f"r{number}") for number, row in enumerate(ROWS * 6)]


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in batches of two rows, and a table of more than one is stored."""
    monkeypatch.setattr(readers, "_BATCH_ROWS", 2)
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 300)
    monkeypatch.setattr(stored_tables, "_MEMORY_BYTES", 100)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.CSV", "rows.jsonl", "shards"])
def test_a_source_does_not_depend_on_where_its_table_is(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    small = load(tmp_path / name, ID_ROWS)
    request.getfixturevalue("small_memory")
    before = pa.total_allocated_bytes()
    stored = load_source(str(tmp_path / name))
    assert stored.table.to_list() == small.table.to_list() and stored.ids == small.ids
    assert len(stored.table.data["question"].chunks) > len(small.table.data["question"].chunks)
    assert pa.total_allocated_bytes() - before < small.table.data.nbytes / 2
    for part in ("fingerprint", "counts"):
        assert getattr(stored, part) == getattr(small, part)
    for part in ("labels_N", "question_ids_N"):
        assert np.array_equal(getattr(stored, part), getattr(small, part))


def test_types_keep_their_meaning(small_memory: None, tmp_path: Path) -> None:
    """Texts of other layouts, categories that differ between batches, and numbers as answers."""
    columns = {
        "question": pa.array(["Long? " * 9] * 6, pa.large_string()),
        "solution": pa.array(["a", None, "b", "c", None, "d"], pa.string_view()),
        "answer": pa.array([1.0, 2.5, 3.0, 4.0, 5.0, 6.0]),
        "is_correct": pa.array(["no", "no", "yes", "no", "yes", "yes"]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet", row_group_size=2)
    source = load_source(str(tmp_path / "rows.parquet"))
    assert source.table["solution"][:] == ["a", "", "b", "c", "", "d"]
    assert source.table["answer"][:] == ["1", "2.5", "3", "4", "5", "6"]
    assert source.labels_N is not None
    assert source.labels_N.tolist() == [False, False, True, False, True, True]


def test_faulty_rows_are_counted_through_all_batches(small_memory: None, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [dict(row, question=" " * (i % 2)) for i, row in enumerate(ROWS)]
    with pytest.raises(ValueError, match=r"in 5 rows: 0, 1, 2, 3, 4\. "):
        load(tmp_path / "rows.parquet", rows)


def test_a_full_disk_is_named(small_memory: None, monkeypatch: pytest.MonkeyPatch) -> None:

    def batches() -> Iterator[pa.RecordBatch]:
        yield from pa.table({name: ["text " * 50] for name in COLUMNS}).to_batches() * 2

    def full(writer: object, batch: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pa.ipc.RecordBatchStreamWriter, "write_batch", full)
    with pytest.raises(
        ValueError, match=r"No space left on device\. Free disk space, or set .*TMP"
    ):
        stored_table(batches(), pa.schema([(name, pa.string()) for name in COLUMNS]))
