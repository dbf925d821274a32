"""What identifies the content of a table: its hash, its distinct questions, its duplicates."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from mv_lightning.schema import TEXT_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

_SLICE_ROWS = 1 << 16
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def content_fingerprint(table: pa.Table, labels_N: np.ndarray | None) -> str:
    """Return a hash of texts and labels that does not depend on the file format.

    SHA-256 over names, value bytes and lengths: Arrow's buffers, but not its chunk boundaries.

    Args:
        table: N rows; text columns without nulls.
        labels_N: bool [N], or None for rows without labels.
    """
    digest = hashlib.sha256(f"{table.num_rows} {labels_N is not None}".encode())
    for name in table.column_names:
        digest.update(name.encode())
        for chunk in table[name].chunks:
            _, offsets, values = chunk.buffers()
            bounds = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            if values is not None and len(bounds):
                digest.update(memoryview(values)[bounds[0] : bounds[-1]])
        digest.update(_byte_lengths(table[name]).astype("<i4").tobytes())
    if labels_N is not None:
        digest.update(np.packbits(labels_N).tobytes())
    return digest.hexdigest()


def question_ids(questions: pa.ChunkedArray) -> np.ndarray:
    """Number the distinct questions, so that a split can keep the rows of one question together.

    Two questions are the same when they are equal in lower case with every run of whitespace
    written as one space.

    Args:
        questions: N texts.

    Returns:
        int64 [N], ids from 0 without gaps; equal where the questions are the same.
    """
    import pyarrow as pa

    encoded = questions.dictionary_encode().combine_chunks()
    distinct = encoded.dictionary
    # Only distinct questions are rewritten, in slices: splitting takes several times their bytes.
    slices = []
    for start in range(0, len(distinct), _SLICE_ROWS):
        slices.append(_normalized(distinct.slice(start, _SLICE_ROWS)))
    normalized = pa.chunked_array(slices, type=pa.string()).dictionary_encode().combine_chunks()
    id_of = normalized.indices.to_numpy().astype(np.int64)
    return np.asarray(id_of[encoded.indices.to_numpy()])


def count_duplicates(table: pa.Table, question_ids_N: np.ndarray) -> int:
    """Count the rows whose three texts are those of an earlier row.

    Only rows that share question, answer and length of solution with another are compared: grouping
    all rows by their texts would copy the whole table.

    Args:
        table: N rows with the text columns.
        question_ids_N: int64 [N], see `question_ids`.
    """
    import pyarrow as pa

    answers_N = table["answer"].dictionary_encode().combine_chunks().indices.to_numpy()
    key_N = question_ids_N.astype(np.uint64)
    for part_N in (_byte_lengths(table["question"]), answers_N, _byte_lengths(table["solution"])):
        # A collision of this hash costs time, not exactness.
        key_N = key_N * _HASH_FACTOR + part_N.astype(np.uint64)
    _, inverse, repeats = np.unique(key_N, return_inverse=True, return_counts=True)
    alike = table.select(TEXT_COLUMNS).filter(pa.array(repeats[inverse] > 1))
    return int(alike.num_rows - alike.group_by(list(TEXT_COLUMNS)).aggregate([]).num_rows)


def _normalized(questions: pa.Array) -> pa.Array:
    import pyarrow.compute as pc

    words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(questions)))
    return pc.binary_join(words, " ")


def _byte_lengths(column: pa.ChunkedArray) -> np.ndarray:
    import pyarrow.compute as pc

    return np.asarray(pc.binary_length(column).to_numpy())
