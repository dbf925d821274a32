"""Tables larger than the memory: written once to a temporary file, and mapped from there."""

from __future__ import annotations

import itertools
import mmap
import tempfile
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_MEMORY_BYTES = 64 << 20
"""A larger table is stored in a file."""


def stored_table(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Return batches as one table, in memory where it is small, else in a temporary file.

    The file is in the folder that `tempfile` chooses (`TMPDIR` sets it) and disappears with the
    process. Its pages are cache, not memory of the process: the operating system reads them when
    they are used, and drops them when it needs the space.

    Args:
        batches: Rows; each batch is needed only until the next.
        schema: Of the batches.

    Returns:
        All rows, with `schema` but for texts in Arrow's other layouts: they are plain strings,
        which the checks of `columns.py` leave where they are.

    Raises:
        ValueError: The file cannot be written.
    """
    import pyarrow as pa

    schema = _plain_texts(schema)
    rest = (batch.cast(schema) for batch in batches)
    held, size = [], 0
    for batch in rest:
        held.append(batch)
        size += batch.nbytes
        if size > _MEMORY_BYTES:
            return _mapped(itertools.chain(held, rest), schema)
    return pa.Table.from_batches(held, schema)


def _plain_texts(schema: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    fields = []
    for field in schema:
        is_other_layout = pa.types.is_large_string(field.type) or pa.types.is_string_view(
            field.type
        )
        fields.append(field.with_type(pa.string()) if is_other_layout else field)
    return pa.schema(fields, metadata=schema.metadata)


def _mapped(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    with tempfile.TemporaryFile() as file:
        # The layout of streams, since that of files allows one dictionary only for all batches.
        with pa.ipc.new_stream(file, schema) as writer:
            for batch in batches:
                try:
                    writer.write_batch(batch)
                except OSError as reason:
                    raise ValueError(
                        f"{tempfile.gettempdir()}: rows beyond {_MEMORY_BYTES >> 20} MiB are "
                        f"stored in a temporary file here, which failed: {reason}. Free disk "
                        "space, or set the environment variable TMPDIR to a folder on another disk."
                    ) from reason
        file.flush()
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_stream(pa.py_buffer(content)).read_all()
