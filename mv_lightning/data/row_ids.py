"""The IDs that rows carry in their source, spelled as there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from mv_lightning.data.column_types import plain_column
from mv_lightning.data.columns import is_blank, is_text, number_texts
from mv_lightning.formatting import shorten

if TYPE_CHECKING:
    import pyarrow as pa

ID_NAMES = ("id", "rowid", "exampleid", "sampleid", "index", "idx", "uid", "uuid")
"""Names of ID columns, in the order of preference; case, spaces, `_`, `-` and `.` do not matter."""
NO_ID_COLUMN = "none"
"""As the name of the ID column: the rows are numbered, whatever columns there are."""


def find_id_columns(names: Sequence[str], id_column: str | None, context: str) -> list[str]:
    """Return the columns that hold the IDs: none where rows are numbered, several where unclear.

    Args:
        names: All columns of a table.
        id_column: What the user named; None to find one of `ID_NAMES`, `NO_ID_COLUMN` for none.
        context: The table's name for messages.

    Raises:
        ValueError: There is no column of the user's name, or it is there twice.
    """
    if id_column == NO_ID_COLUMN:
        return []
    if id_column is not None:
        if list(names).count(id_column) != 1:
            raise ValueError(
                f"{context}: expected one ID column {id_column!r}, got {', '.join(names)}. Name "
                f"one of these columns, or {NO_ID_COLUMN!r} to number the rows."
            )
        return [id_column]
    by_name: dict[str, list[str]] = {}
    for name in names:
        plain = re.sub(r"[\s_.-]", "", name).lower()
        by_name.setdefault(plain, []).append(name)
    found = [by_name[name] for name in ID_NAMES if name in by_name]
    return found[0] if found else []


@dataclass(frozen=True)
class IdPart:
    """What one file has in the way of IDs."""

    context: str
    """The file's name for messages."""
    names: Sequence[str]
    """See `find_id_columns`."""
    table: pa.Table
    """The columns of these names."""


@dataclass(frozen=True)
class IdColumn:
    """The ID column of a source as it was read. It is checked when its texts are needed.

    Training does not need them, so an ID column that repeats itself does not prevent it.
    """

    parts: Sequence[IdPart]
    """One for each file."""

    @property
    def name(self) -> str:
        """The name of the column, in the first file that has one."""
        return next(part.names[0] for part in self.parts if part.names)

    def texts(self) -> pa.ChunkedArray:
        """Return the IDs of all rows, strings without nulls.

        Raises:
            ValueError: A file has no such column, or IDs are missing, repeated or not text or whole
                numbers; the rows are named.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        columns = []
        for part in self.parts:
            if not part.names:
                raise ValueError(
                    f"{part.context}: no ID column {self.name!r}, which another file of the source "
                    f"has. {self._hint()}"
                )
            columns.append(self._part_texts(part))
        chunks = chain.from_iterable(column.chunks for column in columns)
        column = pa.chunked_array(list(chunks), pa.string())
        if pc.count_distinct(column).as_py() < len(column):
            texts = column.to_pylist()
            counts = Counter(texts)
            rows = [row for row, text in enumerate(texts) if counts[text] > 1]
            values = dict.fromkeys(repr(texts[row]) for row in rows)
            raise ValueError(
                f"{self.parts[0].context}: expected IDs that differ, got the same in several rows "
                f"of the ID column {self.name!r} ({shorten(values)}; rows {shorten(rows)}). "
                f"{self._hint()}"
            )
        return column

    def _part_texts(self, part: IdPart) -> pa.ChunkedArray:
        import pyarrow as pa

        context = part.context
        if len(part.names) > 1:
            raise ValueError(
                f"{context}: expected one ID column, got {', '.join(part.names)}. Name the one to "
                f"use, or {NO_ID_COLUMN!r} to number the rows."
            )
        column = plain_column(part.table, part.names[0], context)
        numbers = number_texts(column)
        if numbers is None and not is_text(column.type):
            raise ValueError(
                f"{context}: expected text or numbers in the ID column {self.name!r}, got "
                f"{column.type}. {self._hint()}"
            )
        texts = (column if numbers is None else numbers).cast(pa.string())
        empty = np.flatnonzero(is_blank(texts.fill_null(""))).tolist()
        if empty:
            raise ValueError(
                f"{context}: expected an ID in every row, got none in {len(empty):,} rows of the "
                f"ID column {self.name!r}: {shorten(empty)}. {self._hint()}"
            )
        return texts

    def _hint(self) -> str:
        return (
            f"Correct the column, name another one as the ID column, or {NO_ID_COLUMN!r} to number "
            "the rows."
        )
