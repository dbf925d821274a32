"""What identifies the content of a table: its hash, its distinct questions, its duplicates."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mv_lightning.hashing import digests, number_distinct
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
            values, bounds = _utf8(chunk)
            digest.update(values[bounds[0] : bounds[-1]])
        digest.update(_byte_lengths(table[name]).astype("<i4").tobytes())
    if labels_N is not None:
        digest.update(np.packbits(labels_N).tobytes())
    return digest.hexdigest()


def question_ids(questions: pa.ChunkedArray) -> np.ndarray:
    """Number the distinct questions, so that a split can keep the rows of one question together.

    Two questions are the same when they are equal in lower case with every run of whitespace
    written as one space. They are compared by a hash of 128 bits, since the distinct questions of a
    large source would not fit into the memory.

    Args:
        questions: N texts.

    Returns:
        int64 [N], ids from 0 without gaps, in the order in which the questions first occur; equal
        where the questions are the same.
    """
    spelling_N = number_distinct(_digests(questions.chunks))
    is_new_N = np.diff(np.maximum.accumulate(spelling_N), prepend=-1) > 0
    # To normalize is costly, so it is done once for each spelling.
    question_of = number_distinct(_digests(_normalized(questions, is_new_N)))
    return np.asarray(question_of[spelling_N])


def count_shared(first: Sequence[str], second: Sequence[str]) -> int:
    """Count the distinct questions that occur in two lists, compared as by `question_ids`.

    Args:
        first: Questions.
        second: Questions.
    """
    import pyarrow as pa

    ids = question_ids(pa.chunked_array([list(first), list(second)], type=pa.string()))
    return len(np.intersect1d(ids[: len(first)], ids[len(first) :]))


def count_duplicates(table: pa.Table) -> int:
    """Count the rows whose three texts are those of an earlier row.

    Rows are compared by a hash of 64 bits: of 10^8 different rows, any two have the same with a
    probability of 3 * 10^-4.

    Args:
        table: N rows with the text columns.
    """
    hashes_N = np.zeros(table.num_rows, dtype=np.uint64)
    for name in TEXT_COLUMNS:
        hashes_N = hashes_N * _HASH_FACTOR + _digests(table[name].chunks)[:, 0]
    hashes_N.sort()
    return int(np.count_nonzero(hashes_N[1:] == hashes_N[:-1]))


def _digests(chunks: Iterable[pa.Array]) -> np.ndarray:
    """uint64 [N, 2], a hash of each text."""
    parts = [np.empty((0, 2), dtype=np.uint64)]
    for chunk in chunks:
        values, bounds = _utf8(chunk)
        places = itertools.pairwise(bounds.tolist())
        parts.append(digests(values[start:end] for start, end in places))
    return np.concatenate(parts)


def _utf8(chunk: pa.Array) -> tuple[memoryview, np.ndarray]:
    """The bytes of all texts, and int32 [N + 1], where in them each text begins, the end last."""
    _, offsets, values = chunk.buffers()
    bounds = np.zeros(1, np.int32)
    if len(chunk):
        bounds = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
    return memoryview(values or b""), bounds


def _normalized(questions: pa.ChunkedArray, chosen_N: np.ndarray) -> Iterator[pa.Array]:
    """The chosen questions as they are compared, in slices: splitting takes several times their
    bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    start = 0
    for chunk in questions.chunks:
        for first in range(0, len(chunk), _SLICE_ROWS):
            part = chunk.slice(first, _SLICE_ROWS)
            chosen = part.filter(pa.array(chosen_N[start : start + len(part)]))
            words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(chosen)))
            yield pc.binary_join(words, " ")
            start += len(part)


def _byte_lengths(column: pa.ChunkedArray) -> np.ndarray:
    import pyarrow.compute as pc

    return np.asarray(pc.binary_length(column).to_numpy())
