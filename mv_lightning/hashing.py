"""SHA-256 of files and of values in memory, and hashes by which many values are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits.

    Args:
        path: The file. It is read in pieces, so it may be larger than the memory.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(content: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def digests(values: Iterable[bytes | memoryview]) -> np.ndarray:
    """Return a hash of 128 bits of each value: what is held in place of many long values.

    XXH3, which is ten times as fast as a cryptographic hash. Of 10^8 different values, any two have
    the same hash with a probability of 10^-23.

    Args:
        values: N values.

    Returns:
        uint64 [N, 2].
    """
    from xxhash import xxh3_128_digest  # a requirement of `datasets`

    content = bytearray()  # and not a join of all, since an object takes three times its bytes
    for value in values:
        content += xxh3_128_digest(value)
    return np.frombuffer(content, dtype="<u8").reshape(-1, 2)


def number_distinct(digests_N2: np.ndarray) -> np.ndarray:
    """Number the distinct values in the order in which they first occur.

    Args:
        digests_N2: uint64 [N, 2], see `digests`.

    Returns:
        int64 [N], from 0 without gaps; equal where the values are equal.
    """
    import pyarrow as pa

    buffers = [None, pa.py_buffer(np.ascontiguousarray(digests_N2))]
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(digests_N2), buffers)
    return np.asarray(column.dictionary_encode().indices, dtype=np.int64)
