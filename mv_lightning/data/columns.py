"""Check the columns of a table: which are read, texts as text, labels as booleans.

The checks run on Arrow columns, never row by row. Row numbers in their messages count from 0 within
the file that they name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mv_lightning.formatting import shorten
from mv_lightning.schema import LABEL_COLUMN, TEXT_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

KIND_COLUMN = "error"
"""Optional column: the kind of error in a wrong solution."""
LEVEL_COLUMN = "level"
"""Optional column: the level of difficulty of a question."""
SLICE_COLUMNS = {KIND_COLUMN: "kind", LEVEL_COLUMN: "level"}
"""Optional columns by which metrics are shown too, and the name of each slicing."""

EXACT_FLOAT = 2.0**53
"""From here on a double no longer holds every integer."""
_TRUE_LABELS = ("true", "yes", "correct", "right", "1", "1.0")
_FALSE_LABELS = ("false", "no", "incorrect", "wrong", "0", "0.0")
_FILL_HINT = "Fill these rows or drop them"
_LABEL_HINT = (
    "Write correct/incorrect, true/false, yes/no or 1/0 in every row; rows without a label can "
    "only be predicted, from a file without this column or with nothing in it"
)


def select_columns(names: Sequence[str], context: str, labelled: bool | None) -> list[str]:
    """Choose the columns to read.

    Args:
        names: All columns of the table.
        context: The table's name for messages.
        labelled: Whether the label column is needed; None: it is read where there is one.

    Raises:
        ValueError: A needed column is missing, or is there twice.
    """
    needed = list(TEXT_COLUMNS)
    if labelled or (labelled is None and LABEL_COLUMN in names):
        needed.append(LABEL_COLUMN)
    missing = [name for name in needed if name not in names]
    if missing:
        hint = "Rename or add the columns."
        if missing == [LABEL_COLUMN]:
            hint += " Rows without labels can only be predicted."
        raise ValueError(
            f"{context}: no column {', '.join(missing)}: expected {', '.join(needed)}, got "
            f"{', '.join(names) or 'no columns'}. {hint}"
        )
    repeated = [name for name in needed if list(names).count(name) > 1]
    if repeated:
        raise ValueError(
            f"{context}: several columns are named {', '.join(repeated)}. Keep one of each."
        )
    needed += [name for name in SLICE_COLUMNS if list(names).count(name) == 1]
    return needed


def rename_columns(names: Sequence[str], columns: Mapping[str, str], context: str) -> list[str]:
    """Return the names of columns after renaming; a column that loses its name to another has none.

    Args:
        names: All columns of the table.
        columns: Old name -> new name.
        context: The table's name for messages.

    Raises:
        ValueError: No such old name, an unknown new name, or a new name for two columns.
    """
    known = (*TEXT_COLUMNS, LABEL_COLUMN, *SLICE_COLUMNS)
    unknown = [new for new in columns.values() if new not in known]
    if unknown or len(set(columns.values())) < len(columns):
        raise ValueError(
            f"{context}: expected the names {', '.join(known)}, each for one column at most, got "
            f"columns={dict(columns)}. Correct the new names."
        )
    missing = [old for old in columns if old not in names]
    if missing:
        raise ValueError(
            f"{context}: no column {', '.join(missing)} to rename; the columns are "
            f"{', '.join(names)}. Correct the old names."
        )
    renamed = []
    for name in names:
        loses_its_name = name in columns.values()
        renamed.append(columns.get(name, "" if loses_its_name else name))
    return renamed


def check_texts(table: pa.Table, context: str, labels_N: np.ndarray | None) -> tuple[pa.Table, int]:
    """Return the text columns without nulls, and how many answers were numbers.

    A solution may be empty, and null is empty. An answer may be empty, since models run out of
    tokens before they give one, unless its label says that it is correct.

    Args:
        table: N rows, in plain types (see `column_types`).
        context: The table's name for messages.
        labels_N: bool [N], or None for rows without labels.

    Returns:
        The three text columns, and those of `SLICE_COLUMNS` that hold text or whole numbers, all
        `pa.string()`; the number of answers that were numbers and are text now.

    Raises:
        ValueError: A null, an empty question, or a type that is not text; the rows are named.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    question = _text_column(table["question"], context, "question")
    _refuse(pc.is_null(question), context, "`question` is null", _FILL_HINT)
    empty = "`question` is empty or only whitespace"
    _refuse(is_blank(question), context, empty, _FILL_HINT)

    answer, converted = _answer_column(table["answer"], context)
    if labels_N is not None:
        empty = f"`answer` is empty or only whitespace, yet `{LABEL_COLUMN}` is true,"
        _refuse(is_blank(answer) & labels_N, context, empty, _FILL_HINT)

    solution = _text_column(table["solution"], context, "solution").fill_null("")
    columns = {"question": question, "answer": answer, "solution": solution}
    for name in SLICE_COLUMNS:
        if name not in table.column_names:
            continue
        if pa.types.is_integer(table[name].type):
            columns[name] = table[name].cast(pa.string())
        elif is_text(table[name].type):
            columns[name] = _text_column(table[name], context, name)
    return pa.table(columns), converted


def check_labels(column: pa.ChunkedArray, context: str) -> np.ndarray:
    """Return labels in any usual spelling as bool [N].

    Args:
        column: N labels, in a plain type (see `column_types`).
        context: The table's name for messages.

    Raises:
        ValueError: A null, or a value that is not a label; the rows are named.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    null = pc.is_null(column, nan_is_null=True)
    _refuse(null, context, f"`{LABEL_COLUMN}` is null", _LABEL_HINT)
    if pa.types.is_boolean(column.type):
        return np.asarray(column.to_numpy(), dtype=bool)
    if is_text(column.type):
        text = pc.utf8_lower(pc.utf8_trim_whitespace(column.cast(pa.string())))
        is_true = pc.is_in(text, pa.array(_TRUE_LABELS))
        is_false = pc.is_in(text, pa.array(_FALSE_LABELS))
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        is_true = pc.equal(column, pa.scalar(1, column.type))
        is_false = pc.equal(column, pa.scalar(0, column.type))
    else:
        raise ValueError(f"{context}: `{LABEL_COLUMN}` holds {column.type}. {_LABEL_HINT}.")
    neither = pc.invert(pc.or_(is_true, is_false))
    _refuse(neither, context, f"`{LABEL_COLUMN}` is not a label", _LABEL_HINT, column)
    return np.asarray(is_true.to_numpy(), dtype=bool)


def is_unlabelled(column: pa.ChunkedArray) -> bool:
    """Return whether a column of labels holds none: only nulls, or the empty fields of a CSV."""
    import pyarrow as pa

    if is_text(column.type):
        return bool(is_blank(column.cast(pa.string()).fill_null("")).all())
    return column.null_count == len(column)


def is_blank(column: pa.ChunkedArray) -> np.ndarray:
    """Return where a column of texts without nulls is empty or only whitespace: bool [N]."""
    import pyarrow.compute as pc

    return np.asarray(pc.or_(pc.equal(pc.binary_length(column), 0), pc.utf8_is_space(column)))


def _text_column(column: pa.ChunkedArray, context: str, name: str) -> pa.ChunkedArray:
    import pyarrow as pa

    if not is_text(column.type):
        raise ValueError(
            f"{context}: `{name}` holds {column.type}: expected text. Convert it to strings."
        )
    column = column.cast(pa.string())
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as reason:
        raise ValueError(
            f"{context}: `{name}`: {reason}. Write the file again, its text as UTF-8."
        ) from reason
    return column


def _answer_column(column: pa.ChunkedArray, context: str) -> tuple[pa.ChunkedArray, int]:
    """Answers as text, and how many were numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    _refuse(pc.is_null(column, nan_is_null=True), context, "`answer` is null", _FILL_HINT)
    if pa.types.is_floating(column.type):
        inexact = pc.greater_equal(pc.abs(column), pa.scalar(EXACT_FLOAT, column.type))
        problem = "`answer` is a float too large to be exact"
        _refuse(inexact, context, problem, "Write these answers as strings", column)
    numbers = number_texts(column)
    if numbers is not None:
        return numbers, len(numbers)
    return _text_column(column, context, "answer"), 0


def number_texts(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return numbers as people write them (4, not 4.0); None where the column holds no numbers.

    Args:
        column: Any column. NaN is null.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_integer(column.type):
        return column.cast(pa.string())
    if pa.types.is_decimal(column.type):
        return pc.replace_substring_regex(column.cast(pa.string()), r"\.0+$", "")
    if not (pa.types.is_float32(column.type) or pa.types.is_float64(column.type)):
        return None
    column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    whole = column.cast(pa.int64(), safe=False).cast(pa.string())
    is_whole = pc.equal(pc.floor(column), column)
    is_exact = pc.less(pc.abs(column), pa.scalar(EXACT_FLOAT, column.type))
    return pc.if_else(pc.and_(is_whole, is_exact), whole, column.cast(pa.string()))


def value_text(value: Any) -> str | None:
    """Return a single value as people write it (4, not 4.0); None for None and NaN."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if value.is_integer() and abs(value) < EXACT_FLOAT:
            return str(int(value))
    return json.dumps(value)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is text of any layout.

    A column of only nulls counts as text: the null check says more about it.
    """
    from pyarrow import types

    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    return any(is_kind(kind) for is_kind in texts)


def _refuse(
    bad: pa.ChunkedArray | np.ndarray,
    context: str,
    problem: str,
    hint: str,
    values: pa.ChunkedArray | None = None,
) -> None:
    """Raise where any row of the boolean column `bad` is True, with the first rows and values."""
    rows = np.flatnonzero(np.asarray(bad)).tolist()
    if not rows:
        return
    got = ""
    if values is not None:
        got = f" ({shorten([repr(values[row].as_py()) for row in rows[:6]])})"
    raise ValueError(f"{context}: {problem}{got} in {len(rows):,} rows: {shorten(rows)}. {hint}.")
