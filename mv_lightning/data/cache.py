"""Tokenised rows on disk: a phase that is started again, or another process, reuses them.

A folder holds one file of NumPy's format for each array of an `EncodedRows`, which is mapped into
memory, and the key that says what was tokenised, how and with what. What cannot be read, or is not
what was written, is tokenised again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.atomic import atomic_folder, free_bytes
from mv_lightning.hashing import sha256_file
from mv_lightning.schema import EncodedRows

KEY = "key.json"
_ARRAYS = tuple(field.name for field in dataclasses.fields(EncodedRows))


def cached(
    folder: Path, key: dict[str, Any], encode: Callable[[], EncodedRows], write: bool = True
) -> EncodedRows:
    """Return the rows in `folder` if they are those of `key`, else encode and store them.

    Args:
        folder: Where they are stored; rows of another key are replaced.
        key: Everything that the rows depend on, as plain values.
        encode: Makes the rows.
        write: False for a process that only reads.

    Returns:
        The rows; read from the disk, their arrays are mapped read-only.
    """
    stored = _read(folder, key)
    if stored is not None:
        return stored
    encoded = encode()
    arrays = {name: np.asarray(getattr(encoded, name)) for name in _ARRAYS}
    size = sum(array.nbytes for array in arrays.values())
    if write and free_bytes(folder) > 2 * size:  # checkpoints need the rest of the disk
        with atomic_folder(folder) as tmp_path:
            for name, array in arrays.items():
                np.save(tmp_path / f"{name}.npy", array)
            (tmp_path / KEY).write_text(
                json.dumps({"key": key, "sha256": _sha256(tmp_path)}), encoding="utf-8"
            )
    return encoded


def _read(folder: Path, key: dict[str, Any]) -> EncodedRows | None:
    try:
        stored = json.loads((folder / KEY).read_text(encoding="utf-8"))
        if stored != {"key": key, "sha256": _sha256(folder)}:
            return None
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    except (OSError, ValueError):
        return None
    return EncodedRows(**{**arrays, "prefix_ids": tuple(arrays["prefix_ids"].tolist())})


def _sha256(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / f"{name}.npy") for name in _ARRAYS}
