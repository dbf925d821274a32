"""From what a user names (a file, a folder, a saved dataset, the Hub) to one checked table.

Whatever the origin, the rows have the columns question, answer and solution as text, labels that
are booleans, and a fingerprint of their content. Everything that is wrong with a source is a
`ValueError` that says what was expected, what was found and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mv_lightning.data.column_types import plain_column
from mv_lightning.data.columns import (
    SLICE_COLUMNS,
    check_labels,
    check_texts,
    is_blank,
    is_unlabelled,
    rename_columns,
    select_columns,
)
from mv_lightning.data.dataset_card import declared_classes
from mv_lightning.data.fingerprint import content_fingerprint, count_duplicates, question_ids
from mv_lightning.data.origins import find_origin
from mv_lightning.data.readers import ColumnSelector
from mv_lightning.data.row_ids import IdColumn, IdPart, find_id_columns
from mv_lightning.formatting import shorten
from mv_lightning.schema import LABEL_COLUMN

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa


@dataclass(frozen=True)
class Source:
    """A checked table of rows, and what identifies it."""

    name: str
    """What the user wrote."""
    table: datasets.Dataset
    """N rows: question, answer, solution, and `error` and `level` where the source has them; text,
    no nulls."""
    labels_N: np.ndarray | None
    """bool [N], True where the answer is correct; None when the rows were loaded without labels."""
    question_ids_N: np.ndarray
    """int64 [N], see `fingerprint.question_ids`."""
    fingerprint: str
    """Hash of texts and labels: the same content has the same fingerprint in every file format."""
    counts: Mapping[str, int]
    """rows, distinct_questions, duplicates (rows whose three texts are those of an earlier row),
    converted_answers (in columns of numbers, turned into text), empty_answers, empty_solutions."""
    files: Sequence[str] = ()
    """The files of a folder that were read, by their path in it; empty for other sources."""
    id_column: IdColumn | None = None
    """The column that holds the IDs of the rows, unchecked; None where rows are numbered."""
    source_names: Sequence[str] = ()
    """The names of several sources (see `mixture`); empty for one."""
    source_N: np.ndarray | None = None
    """int64 [N], which of several sources each row is from."""
    shares: Sequence[float] | None = None
    """The share of each of several sources that was asked for, 0 to 1."""

    @property
    def ids(self) -> Sequence[str]:
        """The IDs of the N rows as the source spells them, all different.

        Without an ID column (`id_column` is None) they are the row numbers from 0. They are strings
        of Arrow, which take a tenth of the memory of Python's: read them in slices.

        Raises:
            ValueError: IDs are missing, repeated, or neither text nor numbers; the rows are named.
        """
        return self._id_table["id"]

    def ids_of(self, rows_N: np.ndarray) -> Sequence[str]:
        """Return the IDs of some rows, as `ids`.

        Args:
            rows_N: int [N], their numbers.

        Raises:
            ValueError: As for `ids`.
        """
        return self._id_table.select(rows_N)["id"]

    @cached_property
    def _id_table(self) -> datasets.Dataset:
        import datasets
        import pyarrow as pa

        if self.id_column is None:
            texts = pa.chunked_array([pa.array(np.arange(len(self.table))).cast(pa.string())])
        else:
            texts = self.id_column.texts()
        return datasets.Dataset(pa.table({"id": texts}))

    @property
    def description(self) -> str:
        """The source, the files that were chosen in a folder, and the counts, in one line."""
        files = f" ({shorten(self.files)})" if self.files else ""
        counts = [f"{name.replace('_', ' ')} {count:,}" for name, count in self.counts.items()]
        return f"{self.name}{files}: {', '.join(counts)}"


def load_source(
    source: str,
    split: str = "train",
    labelled: bool | None = True,
    id_column: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Source:
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
        id_column: Name of the column that holds the IDs of the rows. None: it is found by its name
            (id, ID, row_id, index, ..., see `row_ids.ID_NAMES`). `none`: rows are numbered. IDs are
            checked when `Source.ids` is first used, since training does not need them.
        columns: Columns that have other names in the source: name there -> name here, such as
            `{"expected": "is_correct"}`.

    Returns:
        The rows in the order of the file (of the sorted file names, where there are several).

    Raises:
        ValueError: Nothing of that name, a file that cannot be read, or rows that break the schema.
    """
    origin = find_origin(source, split)
    request = _Request(labelled, id_column, columns or {}, declared_classes(origin.folder))
    parts = [_read_part(context, read, request) for context, read in origin.parts]
    checked = make_source(source, [part.texts for part in parts], _join_labels(source, parts))
    n_converted = sum(part.converted_answers for part in parts)
    return replace(
        checked,
        counts={**checked.counts, "converted_answers": n_converted},
        files=origin.files,
        id_column=_join_ids(parts),
    )


def make_source(name: str, tables: Sequence[pa.Table], labels_N: np.ndarray | None) -> Source:
    """Make a source of checked rows.

    Args:
        name: Its name.
        tables: Text columns as `check_texts` returns them; N rows in all.
        labels_N: bool [N], or None for rows without labels.

    Raises:
        ValueError: There are no rows.
    """
    import datasets
    import pyarrow as pa

    table = pa.concat_tables(tables, promote_options="default")
    if table.num_rows == 0:
        raise ValueError(f"{name}: no rows: expected at least one. Add rows, or correct the name.")
    for column in SLICE_COLUMNS:
        if column in table.column_names:
            index = table.column_names.index(column)
            table = table.set_column(index, column, table[column].fill_null(""))
    question_ids_N = question_ids(table["question"])
    fingerprint = content_fingerprint(table, labels_N)
    counts = {
        "rows": table.num_rows,
        "distinct_questions": int(question_ids_N.max()) + 1,
        "duplicates": count_duplicates(table),
        "converted_answers": 0,
        "empty_answers": int(np.count_nonzero(is_blank(table["answer"]))),
        "empty_solutions": int(np.count_nonzero(is_blank(table["solution"]))),
    }
    # What reading and checking allocated: up to a tenth of the table.
    pa.default_memory_pool().release_unused()
    return Source(
        name=name,
        table=datasets.Dataset(table, fingerprint=fingerprint),
        labels_N=labels_N,
        question_ids_N=question_ids_N,
        fingerprint=fingerprint,
        counts=counts,
    )


@dataclass(frozen=True)
class _Request:
    """What is read from every file of a source."""

    labelled: bool | None
    id_column: str | None
    columns: Mapping[str, str]
    classes: Mapping[str, Sequence[str]]
    """Class names that the folder declares, by column."""


@dataclass(frozen=True)
class _Part:
    """The rows of one file, checked."""

    texts: pa.Table
    converted_answers: int
    labels_N: np.ndarray | None
    ids: IdPart
    """Unchecked."""


def _read_part(
    context: str,
    read: Callable[[ColumnSelector], pa.Table],
    request: _Request,
) -> _Part:
    import pyarrow as pa

    original: dict[str, str] = {}  # name here -> name there
    id_names: list[str] = []

    def select(names: Sequence[str]) -> list[str]:
        renamed = rename_columns(names, request.columns, context)
        for name in select_columns(renamed, context, request.labelled):
            original[name] = names[renamed.index(name)]
        id_names.extend(find_id_columns(names, request.id_column, context))
        return list(dict.fromkeys([*original.values(), *id_names]))

    raw = read(select)
    plain = {}
    for name, there in original.items():
        plain[name] = plain_column(raw, there, context, request.classes.get(there))
    labels_N = None
    if LABEL_COLUMN in plain:
        labels = plain.pop(LABEL_COLUMN)
        if request.labelled or not is_unlabelled(labels):
            labels_N = check_labels(labels, context)
    texts, converted = check_texts(pa.table(plain), context, labels_N)
    ids = IdPart(context, id_names, raw.select(list(dict.fromkeys(id_names))))
    return _Part(texts, converted, labels_N, ids)


def _join_labels(source: str, parts: Sequence[_Part]) -> np.ndarray | None:
    labels = [part.labels_N for part in parts if part.labels_N is not None]
    if not labels:
        return None
    if len(labels) < len(parts):
        raise ValueError(
            f"{source}: {len(labels)} of {len(parts)} files have labels in `{LABEL_COLUMN}`: "
            "expected labels in all files or in none. Add them, or rename the column."
        )
    return np.concatenate(labels)


def _join_ids(parts: Sequence[_Part]) -> IdColumn | None:
    ids = [part.ids for part in parts]
    if not any(part.names for part in ids):
        return None
    return IdColumn(ids)
