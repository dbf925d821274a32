"""Rows that a program holds, checked as those of a file are."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mv_lightning.data.column_types import class_names
from mv_lightning.data.columns import check_texts, select_columns, value_text
from mv_lightning.schema import TEXT_COLUMNS

Rows = Iterable[Mapping[str, Any]] | Mapping[str, Any]
"""Dicts (a list of them, a `datasets.Dataset`) or columns (a dict of lists, a DataFrame)."""
_CONTEXT = "the rows"


def text_columns(rows: Rows) -> dict[str, Sequence[str]]:
    """Return the texts of rows that a program holds.

    Args:
        rows: N rows: dicts (a list of them, a `datasets.Dataset`), or columns (a dict of lists, a
            DataFrame). One dict of three texts is one row. Columns other than the three texts are
            not read. A solution that is None or NaN is empty.

    Returns:
        `question`, `answer` and `solution`, N texts each.

    Raises:
        ValueError: These are not rows, a column is missing, or rows break the schema.
    """
    import pyarrow as pa

    columns = {}
    for name, values in _columns(rows).items():
        columns[name] = [None if _is_null(value) else value for value in values]
    columns["answer"] = _one_type(columns["answer"])
    try:
        table = pa.table(columns)
    except (pa.ArrowException, ValueError, TypeError) as reason:
        raise ValueError(
            f"{_CONTEXT}: expected texts of the same type and number in each column, got {reason}. "
            "Convert the columns to strings."
        ) from reason
    texts, _ = check_texts(table, _CONTEXT, None)
    return {name: texts[name].to_pylist() for name in TEXT_COLUMNS}


def _columns(rows: Any) -> dict[str, list[Any]]:
    """The values of the three columns."""
    if hasattr(rows, "keys"):
        select_columns(list(rows.keys()), _CONTEXT, labelled=False)
        values = [rows[name] for name in TEXT_COLUMNS]
        if isinstance(values[0], str):
            return {name: [value] for name, value in zip(TEXT_COLUMNS, values, strict=True)}
        return {name: _sequence(name, rows[name]) for name in TEXT_COLUMNS}
    if isinstance(rows, str | bytes) or not hasattr(rows, "__iter__"):
        raise _not_rows(type(rows).__name__)
    columns: dict[str, list[Any]] = {name: [] for name in TEXT_COLUMNS}
    for number, record in enumerate(rows):
        if not hasattr(record, "keys"):
            raise _not_rows(f"{type(record).__name__} as number {number}")
        select_columns(list(record.keys()), f"{_CONTEXT}: number {number}", labelled=False)
        for name, values in columns.items():
            values.append(record[name])
    for name, values in columns.items():
        columns[name] = _class_texts(values, class_names(getattr(rows, "features", None), name))
    return columns


def _sequence(name: str, values: Any) -> list[Any]:
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        raise _not_rows(f"{type(values).__name__} as the column `{name}`")
    return list(values)


def _class_texts(values: list[Any], names: Sequence[str] | None) -> list[Any]:
    """The names of the classes of a `datasets.ClassLabel` in place of their numbers."""
    if names is None:
        return values
    return [names[value] if isinstance(value, int) else value for value in values]


def _one_type(values: list[Any]) -> list[Any]:
    """Numbers as text where there are texts beside them."""
    kinds = {type(value) for value in values if value is not None}
    if str in kinds and kinds <= {str, int, float}:
        return [value_text(value) for value in values]
    return values


def _is_null(value: Any) -> bool:
    """None, NaN, or what pandas has for missing values."""
    if isinstance(value, numbers.Real):
        return bool(value != value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _not_rows(got: str) -> ValueError:
    return ValueError(
        f"Expected rows with {', '.join(TEXT_COLUMNS)}: dicts (a list of them, a datasets.Dataset) "
        f"or columns (a dict of lists, a DataFrame). Got {got}. Convert the rows to dicts."
    )
