"""From what a user names (a file, a folder, a saved dataset, the Hub) to one checked table.

Whatever the origin, the rows have the columns question, answer and solution as text, labels that
are booleans, and a fingerprint of their content. Everything that is wrong with a source is a
`ValueError` that says what was expected, what was found and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mv_lightning.data.columns import (
    KIND_COLUMN,
    check_labels,
    check_texts,
    is_blank,
    is_unlabelled,
    select_columns,
)
from mv_lightning.data.fingerprint import content_fingerprint, count_duplicates, question_ids
from mv_lightning.data.folders import split_files
from mv_lightning.data.readers import READERS, read_file
from mv_lightning.schema import DEFAULT_SEED, LABEL_COLUMN

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

SYNTHETIC = "synthetic"
SYNTHETIC_ROWS = 6_000
_SAVED_DATASET = ("dataset_dict.json", "state.json")
"""What tells a folder of `datasets.save_to_disk` from a folder of data files."""


@dataclass(frozen=True)
class Source:
    """A checked table of rows, and what identifies it."""

    name: str
    """What the user wrote."""
    table: datasets.Dataset
    """N rows: question, answer, solution, and `error` where the source has it; text, no nulls."""
    labels_N: np.ndarray | None
    """bool [N], True where the answer is correct; None when the rows were loaded without labels."""
    question_ids_N: np.ndarray
    """int64 [N], see `fingerprint.question_ids`."""
    fingerprint: str
    """Hash of texts and labels: the same content has the same fingerprint in every file format."""
    counts: Mapping[str, int]
    """rows, distinct_questions, duplicates (rows whose three texts are those of an earlier row),
    converted_answers (numbers turned into text), empty_answers, empty_solutions."""


def load_source(source: str, split: str = "train", labelled: bool | None = True) -> Source:
    """Load and check the rows that `source` names.

    Args:
        source: One of
            - a file: `.parquet`, `.jsonl` or `.json` (one object per line), `.csv` (UTF-8, with a
              header), `.arrow`;
            - a folder: what `datasets.save_to_disk` wrote, or data files of one format. Files are
              chosen by the split in their names (`train.csv`, `data/test-00000-of-00002.parquet`);
              a folder without such names is all `train`;
            - `synthetic` or `synthetic:ROWS`: generated rows (`./synthetic` is a folder);
            - anything else: a dataset's id on the Hugging Face Hub.
        split: Which split of a folder or Hub dataset. A file and a saved single dataset are one
            split themselves: `split` is not used there.
        labelled: Read and demand the label column. False: it is not read. None: read it where there
            is one with anything in it; a column that holds labels in some rows only, or something
            else, is refused all the same.

    Returns:
        The rows in the order of the file (of the sorted file names, where there are several).

    Raises:
        ValueError: Nothing of that name, a file that cannot be read, or rows that break the schema.
    """
    import datasets
    import pyarrow as pa

    tables, labels, converted = [], [], 0
    for table, context in _tables(source, split, labelled):
        labels_N = _labels(table, context, labelled)
        if labels_N is not None:
            labels.append(labels_N)
        texts, more = check_texts(table, context, labels_N)
        tables.append(texts)
        converted += more
    if labels and len(labels) < len(tables):
        raise ValueError(
            f"{source}: {len(labels)} of {len(tables)} files have labels in `{LABEL_COLUMN}`: "
            "expected labels in all files or in none. Add them, or rename the column."
        )
    table = pa.concat_tables(tables, promote_options="default")
    if table.num_rows == 0:
        raise ValueError(
            f"{source}: no rows: expected at least one. Add rows, or correct the name."
        )
    if KIND_COLUMN in table.column_names:
        kinds = table[KIND_COLUMN].fill_null("")
        table = table.set_column(table.column_names.index(KIND_COLUMN), KIND_COLUMN, kinds)
    labels_N = np.concatenate(labels) if labels else None
    question_ids_N = question_ids(table["question"])
    fingerprint = content_fingerprint(table, labels_N)
    counts = {
        "rows": table.num_rows,
        "distinct_questions": int(question_ids_N.max()) + 1,
        "duplicates": count_duplicates(table, question_ids_N),
        "converted_answers": converted,
        "empty_answers": int(np.count_nonzero(is_blank(table["answer"]))),
        "empty_solutions": int(np.count_nonzero(is_blank(table["solution"]))),
    }
    # What reading and checking allocated: up to a tenth of the table.
    pa.default_memory_pool().release_unused()
    rows = datasets.Dataset(table, fingerprint=fingerprint)
    return Source(source, rows, labels_N, question_ids_N, fingerprint, counts)


def _labels(table: pa.Table, context: str, labelled: bool | None) -> np.ndarray | None:
    if LABEL_COLUMN not in table.column_names:
        return None
    if labelled is None and is_unlabelled(table[LABEL_COLUMN]):
        return None
    return check_labels(table[LABEL_COLUMN], context)


def _tables(source: str, split: str, labelled: bool | None) -> Iterator[tuple[pa.Table, str]]:
    """Every table that `source` consists of, with the needed columns only, and its name."""
    if not source.strip():
        raise ValueError(
            "The name of the source is empty: expected a file, a folder, "
            f"`{SYNTHETIC}:ROWS` or the id of a Hub dataset. Set one."
        )
    path = Path(source).expanduser()
    files = _files(source, path, split)
    if files is not None:
        for file in files:
            select = partial(select_columns, context=str(file), labelled=labelled)
            yield read_file(file, select), str(file)
        return
    if source.partition(":")[0] == SYNTHETIC:
        table = _synthetic(source, split)
    elif path.is_dir():
        table = _saved(path, split)
    else:
        table = _from_hub(source, split)
    yield table.select(select_columns(table.column_names, source, labelled)), source


def _files(source: str, path: Path, split: str) -> list[Path] | None:
    """The data files that `source` names; None where it names something else."""
    if source.partition(":")[0] == SYNTHETIC:
        return None
    if path.is_dir():
        saved = any((path / name).exists() for name in _SAVED_DATASET)
        return None if saved else split_files(path, split)
    if path.exists():
        return [path]
    looks_like_a_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    if looks_like_a_path or path.suffix.lower() in READERS:
        raise ValueError(
            f"{source}: no such file or folder (looked for {path.absolute()}). Correct the path."
        )
    return None


def _synthetic(source: str, split: str) -> pa.Table:
    from mv_lightning.data.synthetic import synthetic_table

    _, colon, rows = source.partition(":")
    if not colon:
        return synthetic_table(split, SYNTHETIC_ROWS, DEFAULT_SEED)
    if not rows.isdecimal() or int(rows) == 0:
        raise ValueError(
            f"{source}: expected a number of rows after the colon, got {rows!r}. Write for example "
            f"`{SYNTHETIC}:{SYNTHETIC_ROWS}`."
        )
    return synthetic_table(split, int(rows), DEFAULT_SEED)


def _saved(folder: Path, split: str) -> pa.Table:
    import datasets
    import pyarrow as pa

    try:
        saved = datasets.load_from_disk(str(folder))
    except (pa.ArrowException, OSError, ValueError, LookupError) as reason:
        raise ValueError(
            f"{folder}: the saved dataset cannot be read: {reason}. Save or copy it again."
        ) from reason
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise ValueError(
                f"{folder}: no split {split!r} in the saved dataset: expected one of "
                f"{sorted(saved)}. Name one of them."
            )
        saved = saved[split]
    return saved.with_format("arrow")[:]


def _from_hub(source: str, split: str) -> pa.Table:
    import datasets

    try:
        rows = datasets.load_dataset(source, split=split)
    except Exception as reason:  # gated, offline, unknown and malformed ids share no class below it
        raise ValueError(
            f"{source}: no file or folder of that name, and the Hub gave no dataset {source!r} "
            f"with a split {split!r}: {reason}. Check the id and the split; without internet run "
            f"`hf download {source} --repo-type dataset --local-dir FOLDER` on a machine that has "
            "it, and name that folder here."
        ) from reason
    return rows.with_format("arrow")[:]
