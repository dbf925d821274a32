"""Tokenised rows on disk: a phase that is started again, or another process, reuses them.

A folder holds one file of NumPy's format for each array of an `EncodedRows`, which is mapped into
memory, and the key that says what was tokenised, how and with what. What cannot be read, or is not
what was written, is tokenised again.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

from mv_lightning.atomic import atomic_folder, free_bytes
from mv_lightning.data.encoding import concatenate_rows
from mv_lightning.hashing import sha256_file
from mv_lightning.schema import EncodedRows

KEY = "key.json"
_ARRAYS = tuple(field.name for field in dataclasses.fields(EncodedRows))


def cached(
    folder: Path,
    key: dict[str, Any],
    encode: Callable[[], Iterable[EncodedRows]],
    write: bool = True,
) -> EncodedRows:
    """Return the rows in `folder` if they are those of `key`, else encode and store them.

    Args:
        folder: Where they are stored; rows of another key are replaced.
        key: Everything that the rows depend on, as plain values.
        encode: Makes the rows, in parts: at least one.
        write: False for a process that only reads.

    Returns:
        The rows, mapped read-only from the disk; in memory where they are not stored.
    """
    stored = _read(folder, key)
    if stored is not None:
        return stored
    if write:
        try:
            _write(folder, key, encode())
            return _mapped(folder)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return concatenate_rows(list(encode()))


def _write(folder: Path, key: dict[str, Any], parts: Iterable[EncodedRows]) -> None:
    """Write the rows part by part.

    Raises:
        OSError: `ENOSPC` where they need more than half of the free disk.
    """
    free = free_bytes(folder) // 2  # checkpoints need the rest
    with atomic_folder(folder) as tmp_path:
        with ExitStack() as stack:
            files: dict[str, _ArrayFile] = {}
            tokens = 0
            for part in parts:
                arrays = {name: np.asarray(getattr(part, name)) for name in _ARRAYS}
                if files:
                    arrays["starts_N"] = arrays["starts_N"][1:] + tokens
                    del arrays["prefix_ids"]
                for name, array in arrays.items():
                    if name not in files:
                        file = _ArrayFile(tmp_path / f"{name}.npy", array.dtype)
                        files[name] = stack.enter_context(file)
                    files[name].append(array)
                    free -= array.nbytes
                if free < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                tokens += len(part.ids_T)
        (tmp_path / KEY).write_text(
            json.dumps({"key": key, "sha256": _sha256(tmp_path)}), encoding="utf-8"
        )


class _ArrayFile:
    """A one-dimensional array in a file of NumPy's format, which grows."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._file = path.open("wb")
        self._dtype = dtype
        self._length = 0
        self._write_header()

    def append(self, array: np.ndarray) -> None:
        self._file.write(array.data)
        self._length += len(array)

    def _write_header(self) -> None:
        """NumPy leaves room for any length, so that the header can be written again."""
        descr = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()


def _read(folder: Path, key: dict[str, Any]) -> EncodedRows | None:
    try:
        stored = json.loads((folder / KEY).read_text(encoding="utf-8"))
        if stored != {"key": key, "sha256": _sha256(folder)}:
            return None
        return _mapped(folder)
    except (OSError, ValueError):
        return None


def _mapped(folder: Path) -> EncodedRows:
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    return EncodedRows(**{**arrays, "prefix_ids": tuple(arrays["prefix_ids"].tolist())})


def _sha256(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / f"{name}.npy") for name in _ARRAYS}
