"""Rows that a program holds, checked as those of a file are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mv_lightning.data.columns import check_texts, select_columns
from mv_lightning.schema import TEXT_COLUMNS

Rows = Iterable[Mapping[str, Any]] | Mapping[str, Iterable[Any]]
"""Dicts (a list of them, a `datasets.Dataset`) or columns (a dict of lists, a DataFrame)."""


def text_columns(rows: Rows) -> dict[str, Sequence[str]]:
    """Return the texts of rows that a program holds.

    Args:
        rows: N rows. Columns other than the three texts are not read.

    Returns:
        `question`, `answer` and `solution`, N texts each.

    Raises:
        ValueError: A column is missing, or rows break the schema.
    """
    import pyarrow as pa

    context = "the rows"
    if hasattr(rows, "keys"):
        by_column: Any = rows
        select_columns(list(by_column.keys()), context, labelled=False)
        columns = {name: list(by_column[name]) for name in TEXT_COLUMNS}
    else:
        records: list[Any] = list(rows)
        for number, record in enumerate(records):
            select_columns(list(record), f"{context}: number {number}", labelled=False)
        columns = {}
        for name in TEXT_COLUMNS:
            columns[name] = [record[name] for record in records]
    try:
        table = pa.table(columns)
    except (pa.ArrowException, ValueError, TypeError) as reason:
        raise ValueError(
            f"{context}: {reason}. Expected texts of the same type and number in each column."
        ) from reason
    texts, _ = check_texts(table, context, None)
    return {name: texts[name].to_pylist() for name in TEXT_COLUMNS}
