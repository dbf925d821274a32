"""Read one data file into an Arrow table: Parquet, JSON Lines, CSV and Arrow.

A reader takes only the columns that its caller chooses, and changes no value: numbers, texts and
labels are checked in `columns.py`. What cannot be read without a doubt is a `ValueError` that names
the file and, where the format has them, the line.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mv_lightning.data.columns import value_text
from mv_lightning.data.stored_tables import stored_table
from mv_lightning.schema import LABEL_COLUMN, TEXT_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

ColumnSelector = Callable[[Sequence[str]], list[str]]
"""The names of all columns of a file -> those to read. Raises where one is missing."""

_BATCH_ROWS = 1 << 16
_BLOCK_BYTES = 16 << 20
"""Arrow's readers refuse a row longer than one block; their own default is 1 MiB."""
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""A surrogate without its other half."""
_FIELD_EDGES = np.frombuffer(b",\r\n", np.uint8)
"""The bytes beside a field of a CSV."""


def read_file(path: Path, select: ColumnSelector) -> pa.Table:
    """Read the chosen columns of a file; its suffix says the format.

    Args:
        path: A file with one of the suffixes of `READERS`.
        select: Chooses the columns.

    Raises:
        ValueError: Another suffix, or a file that cannot be read as what its suffix says.
    """
    import pyarrow as pa

    reader = READERS.get(path.suffix.lower())
    if reader is None:
        got = path.suffix or "no suffix"
        raise ValueError(f"{path}: expected one of {', '.join(READERS)}, got {got}. Convert it.")
    try:
        return reader(path, select)
    except (pa.ArrowException, OSError) as reason:
        raise ValueError(
            f"{path}: cannot be read as {path.suffix[1:]}: {reason}. The file is damaged, cut "
            "short or of another format or encoding (text must be UTF-8). Write or download it "
            "again."
        ) from reason


def _read_parquet(path: Path, select: ColumnSelector) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        names = select(file.schema_arrow.names)
        fields = [file.schema_arrow.field(name) for name in names]
        schema = pa.schema(fields, metadata=file.schema_arrow.metadata)
        return stored_table(file.iter_batches(_BATCH_ROWS, columns=names), schema)


def _read_arrow(path: Path, select: ColumnSelector) -> pa.Table:
    import pyarrow as pa

    file = pa.memory_map(str(path))
    try:
        table = pa.ipc.open_file(file).read_all()
    except pa.ArrowInvalid:  # not the file layout: `datasets` writes streams
        table = pa.ipc.open_stream(file).read_all()
    return table.select(select(table.column_names))


def _check_not_utf16(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(2)
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or 0 in start:
        raise ValueError(
            f"{path}: expected UTF-8, got UTF-16. Convert it with "
            "`iconv -f UTF-16 -t UTF-8 OLD > NEW`."
        )


# ---- CSV ----------------------------------------------------------------------------------------


def _read_csv(path: Path, select: ColumnSelector) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    _check_not_utf16(path)
    _check_quotes(path)
    layout = {
        "read_options": csv.ReadOptions(block_size=_BLOCK_BYTES),
        "parse_options": csv.ParseOptions(newlines_in_values=True),
    }
    # This first reader is dropped: it reads ahead, and would hold the whole file beside the table.
    names = select(csv.open_csv(path, **layout).schema.names)
    as_text = csv.ConvertOptions(
        include_columns=names, column_types=dict.fromkeys(names, pa.string())
    )
    with csv.open_csv(path, convert_options=as_text, **layout) as reader:
        return stored_table(reader, reader.schema)


def _check_quotes(path: Path) -> None:
    """Refuse quotation marks that are not at the beginning or the end of a field.

    Arrow's reader would take the text up to the next mark, often whole rows, for one field, without
    an error.
    """
    content = np.empty(0, np.uint8)
    if path.stat().st_size:
        content = np.memmap(path, np.uint8, "r")
    at_Q = _quote_offsets(content)
    first = 0
    if content[:3].tobytes() == codecs.BOM_UTF8:
        first = len(codecs.BOM_UTF8)
    before_Q = content[at_Q.clip(1) - 1]
    after_Q = content[(at_Q + 1).clip(max=len(content) - 1)]
    doubled_Q = np.diff(at_Q) == 1
    opens_Q = np.isin(before_Q, _FIELD_EDGES) | (at_Q == first) | np.append(False, doubled_Q)
    ends_file_Q = at_Q == len(content) - 1
    closes_Q = np.isin(after_Q, _FIELD_EDGES) | ends_file_Q | np.append(doubled_Q, False)
    is_opening_Q = np.arange(len(at_Q)) % 2 == 0
    stray = np.flatnonzero(~np.where(is_opening_Q, opens_Q, closes_Q))
    if len(stray):
        problem = _stray_quote(content, at_Q, int(stray[0]))
    elif len(at_Q) % 2:
        line = _line_number(content, at_Q[-1])
        problem = f"the quotation mark in line {line} begins a field that is never closed"
    else:
        return
    raise ValueError(
        f"{path}: {problem}. Put fields that hold commas, quotes or line breaks in quotes, and "
        'double the quotes within ("").'
    )


def _quote_offsets(content: np.ndarray) -> np.ndarray:
    """Where the quotation marks are; block by block, to hold no second copy of the file."""
    offsets = [np.empty(0, np.int64)]
    for start in range(0, len(content), _BLOCK_BYTES):
        block = content[start : start + _BLOCK_BYTES]
        offsets.append(np.flatnonzero(block == ord('"')) + start)
    return np.concatenate(offsets)


def _stray_quote(content: np.ndarray, at_Q: np.ndarray, mark: int) -> str:
    line = _line_number(content, at_Q[mark])
    if mark % 2 == 0:
        return f"a quotation mark in line {line} is inside a field that does not begin with one"
    line_before = _line_number(content, at_Q[mark - 1])
    return (
        f"a quotation mark in line {line} ends a field, but no comma follows; or the field that "
        f"begins in line {line_before} is never closed"
    )


def _line_number(content: np.ndarray, offset: int) -> int:
    return int(np.count_nonzero(content[:offset] == ord("\n"))) + 1


# ---- JSON Lines ---------------------------------------------------------------------------------


def _read_jsonl(path: Path, select: ColumnSelector) -> pa.Table:
    import pyarrow as pa
    from pyarrow import json as arrow_json

    _check_not_utf16(path)
    types = _value_types(path)
    if not types:
        raise ValueError(f"{path}: no rows. Write one JSON object per line.")
    names = select(list(types))
    # Types are stated, not inferred: Arrow would read "2024-01-31" as a date.
    arrow_types = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    fields = []
    for name in names:
        if len(types[name]) > 1:
            return _read_jsonl_by_line(path, names)
        (kind,) = types[name] or {str}
        fields.append((name, arrow_types.get(kind, pa.string())))
    options = arrow_json.ParseOptions(
        explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore"
    )
    try:
        layout = arrow_json.ReadOptions(block_size=_BLOCK_BYTES)
        with arrow_json.open_json(path, layout, options) as reader:
            table = stored_table(reader, reader.schema)
        table.validate(full=True)
        return table
    except (pa.ArrowException, UnicodeDecodeError):
        return _read_jsonl_by_line(path, names)


def _value_types(path: Path) -> dict[str, set[type]]:
    """The keys of all rows, and the types of their values that are not null.

    All rows are looked at: the first ones may lack a key, or have a null or 1 where later ones have
    a text or 0.5.
    """
    types: dict[str, set[type]] = {}
    for _, row in _objects(path):
        for name, value in row.items():
            known = types.setdefault(name, set())
            if value is not None:
                known.add(type(value))
    return types


def _read_jsonl_by_line(path: Path, names: list[str]) -> pa.Table:
    """Read slowly what Arrow's reader cannot: values of several types, and faults to be located."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {name: [] for name in names}
    for number, row in _objects(path):
        for name, values in columns.items():
            value = row.get(name)
            if isinstance(value, str) and _HALF_CHARACTER.search(value):
                raise ValueError(
                    f"{path}: line {number}: `{name}` holds half a character (a lone \\ud... "
                    "escape). Correct this line."
                )
            values.append(value)
    for name, values in columns.items():
        columns[name] = _one_type(values, name, path)
    try:
        return pa.table(columns)
    except (OverflowError, pa.ArrowInvalid) as reason:
        raise ValueError(
            f"{path}: a value cannot be kept exactly: {reason}. Write numbers of more than 15 "
            "digits as strings."
        ) from reason


def _one_type(values: list[Any], name: str, path: Path) -> list[Any]:
    """Values of one type: where both numbers and texts are answers or IDs, all are texts."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 or kinds == {int, float}:
        return values
    if name not in (*TEXT_COLUMNS, LABEL_COLUMN) or (
        name == "answer" and kinds <= {int, float, str}
    ):
        return [value_text(value) for value in values]
    first = next(value for value in values if value is not None)
    odd = (i for i, v in enumerate(values) if v is not None and _kind(v) != _kind(first))
    index = next(odd)
    line, _ = next(itertools.islice(_objects(path), index, None))
    raise ValueError(
        f"{path}: line {line}: `{name}` is of type {_kind(values[index])}, in earlier lines of "
        f"type {_kind(first)}. Write it the same way in every line."
    )


def _kind(value: object) -> str:
    return "number" if type(value) in (int, float) else type(value).__name__


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects with their line numbers from 1; blank lines are skipped."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            problem = ""
            try:
                row = json.loads(line.decode("utf-8-sig"))
                if not isinstance(row, dict):
                    problem = f"it holds a {type(row).__name__}"
            except ValueError as reason:
                problem = str(reason)
            if problem:
                raise ValueError(
                    f"{path}: line {number} is not a JSON object: {problem}; it begins "
                    f"{line[:60]!r}. Write one UTF-8 object per line; "
                    "`jq -c '.[]' OLD.json > NEW.jsonl` converts one large array."
                )
            yield number, row


READERS: dict[str, Callable[[Path, ColumnSelector], pa.Table]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
    ".csv": _read_csv,
    ".arrow": _read_arrow,
}
"""The reader of each suffix."""
