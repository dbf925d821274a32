"""Every format gives the same rows, and what names no source is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mv_lightning.data.sources import load_source
from tests.data.files import (
    COLUMNS,
    ROWS,
    WRITERS,
    load,
    only,
    write_csv,
    write_jsonl,
    write_parquet,
)

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_source(name: str, tmp_path: Path) -> None:
    source = load(tmp_path / name, ROWS)
    texts = only(ROWS, *COLUMNS[:3])
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
    unlabelled = only(ROWS, "solution", "answer", "question")
    source = load(tmp_path / name, unlabelled, labelled=False)
    assert source.labels_N is None
    assert source.table["answer"][:] == [row["answer"] for row in ROWS]
    (tmp_path / "labelled").mkdir()
    labelled = load(tmp_path / "labelled" / name, ROWS, labelled=False)
    assert labelled.fingerprint == source.fingerprint
    assert load_source(labelled.name).fingerprint != source.fingerprint
    with pytest.raises(ValueError, match=r"no column is_correct.*can only be predicted"):
        load_source(source.name)


def test_labels_in_some_files_only_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test-0.jsonl", ROWS[:2])
    write_jsonl(tmp_path / "test-1.jsonl", only(ROWS[2:], *COLUMNS[:3]))
    with pytest.raises(ValueError, match="1 of 2 files have labels"):
        load_source(str(tmp_path), split="test", labelled=None)


def test_no_rows_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS).slice(0, 0), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text(",".join(COLUMNS) + "\n")
    (tmp_path / "rows.jsonl").write_text("\n \n")
    for name in ("rows.parquet", "rows.csv", "rows.jsonl"):
        with pytest.raises(ValueError, match="no rows"):
            load_source(str(tmp_path / name))


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
    with pytest.raises(ValueError, match=r"expected one of \.parquet.*, got \.tsv\. Convert"):
        load_source(str(tmp_path / "rows.tsv"))


def test_synthetic_rows_are_generated() -> None:
    source = load_source("synthetic:40")
    assert source.labels_N is not None
    assert (len(source.labels_N), source.labels_N.sum()) == (40, 20)
    assert source.table.column_names == ["question", "answer", "solution", "error", "level"]
    assert set(load_source("synthetic:40:2").table["level"]) == {"2"}
    assert load_source("synthetic:40").fingerprint == source.fingerprint
    assert load_source("synthetic:40", split="test").fingerprint != source.fingerprint
    for name in ("", "many", "0", "-2", "40:", "40:easy", "40:0", "40:1:1"):
        with pytest.raises(ValueError, match="expected a number of rows after the colon"):
            load_source(f"synthetic:{name}")


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
    assert message.startswith("someone/a-dataset: no file or folder of that name, and the Hub gave")
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
    assert source.counts["distinct_questions"] == len(np.unique(source.question_ids_N)) < rows
