"""Which files of a folder are the rows of a split."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mv_lightning.data.readers import READERS
from mv_lightning.formatting import shorten

SPLIT_NAMES = ("train", "test", "val", "dev")
_DATASET_FILES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What `datasets` writes beside its data files."""


def split_files(folder: Path, split: str) -> list[Path]:
    """Return the data files of a split, sorted by name.

    Args:
        folder: A folder of data files, at any depth. Names that begin with a dot are left out.
        split: The files with this word in their path are chosen. Where no path names any split, all
            files are `train`.

    Raises:
        ValueError: No data file, none of the split, or files of several formats.
    """
    files = _data_files(folder)
    if not files:
        raise ValueError(
            f"{folder}: expected data files ({', '.join(READERS)}), got none. Correct the path."
        )
    chosen = _named_after(split, files)
    if not chosen and split == "train":
        names_a_split = [name for name in SPLIT_NAMES if _named_after(name, files)]
        if not names_a_split:
            chosen = list(files.values())
    if not chosen:
        raise ValueError(
            f"{folder}: expected files named after the split {split!r}, got "
            f"{shorten(map(repr, files))}. Name the file itself as the source, or rename it to "
            f"start with {split!r}."
        )
    suffixes = {path.suffix.lower() for path in chosen}
    if len(suffixes) > 1:
        names = [repr(path.name) for path in chosen]
        raise ValueError(
            f"{folder}: expected files of one format for the split {split!r}, got "
            f"{len(suffixes)} formats: {shorten(names)}. Name one file, or move the others away."
        )
    return chosen


def _data_files(folder: Path) -> dict[str, Path]:
    """Path within the folder -> file."""
    files = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in READERS and path.name not in _DATASET_FILES and not hidden:
            files[relative.as_posix()] = path
    return files


def _named_after(split: str, files: Mapping[str, Path]) -> list[Path]:
    word = re.compile(rf"(?<![a-z]){re.escape(split.lower())}")
    return [path for name, path in files.items() if word.search(name.lower())]
