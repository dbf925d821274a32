"""Columns whose type carries a meaning beyond the stored values.

A label that is stored as 0 and named "correct" is correct: class numbers must never be taken for
labels or texts. `datasets` stores the names in the metadata of the schema, which Parquet and Arrow
files keep; Arrow's extension types say theirs in the type or in the metadata of the field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_EXTENSION_NAME = b"ARROW:extension:name"
_BOOL8 = "arrow.bool8"


def plain_column(
    table: pa.Table, name: str, context: str, declared: Sequence[str] | None = None
) -> pa.ChunkedArray:
    """Return a column as the values that it means, in a plain type.

    Args:
        table: A table with the metadata of its schema.
        name: The column.
        context: The table's name for messages.
        declared: Names of the classes of this column, where a file beside the data states them.

    Returns:
        The values of a dictionary (categorical) type, the names of a `datasets.ClassLabel` (null
        for -1), booleans for Arrow's `bool8`; any other column as it is.

    Raises:
        ValueError: An extension type of unknown meaning, or a class number without a name.
    """
    import pyarrow as pa

    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    extension = _extension_name(table.schema.field(name))
    if extension == _BOOL8:
        return column.cast(pa.int8()).cast(pa.bool_())
    if extension:
        raise ValueError(
            f"{context}: `{name}` holds the extension type {extension}: expected a plain type. "
            "Convert the column to text, or to booleans for labels."
        )
    names = class_names(_features(table.schema), name)
    if names is None and declared is not None:
        names, column = declared, _as_numbers(column)
    if names is None or not pa.types.is_integer(column.type):
        return column
    return _named(column, names, f"{context}: `{name}`")


def class_names(features: Mapping[str, Any] | None, name: str) -> Sequence[str] | None:
    """Return the names of the classes of a `datasets.ClassLabel`; None where a column is none.

    Args:
        features: The features of a dataset, as objects or as the values that metadata hold; None
            where they are not known.
        name: The column.
    """
    feature = (features or {}).get(name)
    if isinstance(feature, Mapping):
        is_class_label, names = feature.get("_type") == "ClassLabel", feature.get("names")
    else:
        is_class_label = type(feature).__name__ == "ClassLabel"
        names = getattr(feature, "names", None)
    return list(names or []) if is_class_label else None


def _extension_name(field: pa.Field) -> str:
    """The name of an extension type, also of one that Arrow does not know; empty for others."""
    name = getattr(field.type, "extension_name", "")
    if not name and field.metadata:
        name = field.metadata.get(_EXTENSION_NAME, b"").decode(errors="replace")
    return str(name)


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """What `datasets` says about the columns."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = metadata["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, Mapping) else {}


def _as_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The class numbers that a CSV writes as text; any other column as it is."""
    import pyarrow as pa

    if not pa.types.is_string(column.type):
        return column
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        return column


def _named(column: pa.ChunkedArray, names: Sequence[str], context: str) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = column.cast(pa.int64())
    numbers = pc.if_else(pc.equal(numbers, -1), pa.scalar(None, pa.int64()), numbers)
    used = [number for number in pc.unique(numbers).to_pylist() if number is not None]
    unnamed = [number for number in used if not 0 <= number < len(names)]
    if unnamed:
        raise ValueError(
            f"{context}: expected classes of {list(names)}, got the class numbers {unnamed}. "
            "Correct the column, or its ClassLabel."
        )
    # A null index gives a null.
    return pc.take(pa.array(names, pa.string()), numbers)
