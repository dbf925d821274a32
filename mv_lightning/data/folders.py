"""Which files of a folder are the rows of a split."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from mv_lightning.data.readers import READERS
from mv_lightning.formatting import shorten

_SPLIT_WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation"),
    "dev": ("dev", "development"),
    "eval": ("eval", "evaluation"),
}
"""Each split, and the words for it in the names of files and folders."""
_ENDINGS = re.compile("(?<=.)(set|split|data)$")
"""As in `trainset.csv`."""
_DATASET_FILES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What `datasets` writes beside its data files."""


@dataclass(frozen=True)
class _DataFile:
    path: Path
    name: str
    """Path within the folder."""
    split: str | None
    """The split that its name says, or else the name of the nearest folder that says one."""
    root: str
    """The folder, within the folder, that holds what says the split."""


def split_files(folder: Path, split: str) -> list[Path]:
    """Return the data files of a split, sorted by name.

    The name of a file decides, and only where it names no split the folders above it. Where no name
    says any split, all files are `train`.

    Args:
        folder: A folder of data files, at any depth. Names that begin with a dot are left out.
        split: A split, such as `train`, in any usual word for it.

    Raises:
        ValueError: No data file, none of the split, files of several formats, or several sets of
            files (such as configurations in folders of their own) of which one must be chosen.
    """
    expected = split.lower()
    for name, words in _SPLIT_WORDS.items():
        if expected in words:
            expected = name
    files = _data_files(folder, expected)
    if not files:
        raise ValueError(
            f"{folder}: expected data files ({', '.join(READERS)}), got none. Correct the path."
        )
    names_a_split = any(file.split for file in files)
    chosen = [file for file in files if file.split == expected]
    if expected == "train" and not names_a_split:
        chosen = files
    if not chosen:
        names = [repr(file.name) for file in files]
        raise ValueError(
            f"{folder}: expected files named after the split {split!r}, got {shorten(names)}. Name "
            f"the file itself as the source, or rename it to start with {split!r}."
        )
    _check_one_set(folder, split, chosen, names_a_split)
    suffixes = {file.path.suffix.lower() for file in chosen}
    if len(suffixes) > 1:
        names = [repr(file.name) for file in chosen]
        raise ValueError(
            f"{folder}: expected files of one format for the split {split!r}, got "
            f"{len(suffixes)} formats: {shorten(names)}. Name one file, or move the others away."
        )
    return [file.path for file in chosen]


def _check_one_set(folder: Path, split: str, files: list[_DataFile], names_a_split: bool) -> None:
    """Refuse files that look like several data sets: the same question may be in each of them."""
    roots = sorted({file.root for file in files})
    if not names_a_split:
        # Folders of files of any names are one set, unless the same name is in several.
        file_names = {file.path.name for file in files}
        roots = sorted({str(Path(file.name).parent) for file in files})
        if len(file_names) == len(files):
            return
    if len(roots) > 1:
        choices = [str(folder / root) for root in roots]
        names = [repr(file.name) for file in files]
        raise ValueError(
            f"{folder}: expected one set of files for the split {split!r}, got {len(roots)}: "
            f"{shorten(names)}. Name one as the source: {shorten(choices)}, or one of the files."
        )


def _data_files(folder: Path, expected: str) -> list[_DataFile]:
    """All data files, sorted by name; links to folders are followed, each folder once."""
    files = []
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            is_data = path.suffix.lower() in READERS and name not in _DATASET_FILES
            if is_data and not name.startswith("."):
                files.append(_data_file(folder, path, expected))
    return sorted(files, key=lambda file: Path(file.name))


def _data_file(folder: Path, path: Path, expected: str) -> _DataFile:
    relative = path.relative_to(folder)
    for part in (relative, *relative.parents[:-1]):
        split = _split_of(part.name, expected)
        if split:
            return _DataFile(path, relative.as_posix(), split, part.parent.as_posix())
    return _DataFile(path, relative.as_posix(), None, relative.parent.as_posix())


def _split_of(name: str, expected: str) -> str | None:
    """The split that a name of a file or folder says; the first one where it says several."""
    other_name = expected not in _SPLIT_WORDS
    if other_name and re.search(rf"(?<![a-z]){re.escape(expected)}", name.lower()):
        return expected
    for word in re.findall("[a-z]+", name.lower()):
        for candidate in (word, _ENDINGS.sub("", word)):
            for split, words in _SPLIT_WORDS.items():
                if candidate in words:
                    return split
    return None
