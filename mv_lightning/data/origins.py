"""Where rows come from: files, a folder, a saved dataset, generated rows, or the Hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mv_lightning.data.folders import split_files
from mv_lightning.data.readers import READERS, ColumnSelector, read_file
from mv_lightning.schema import DEFAULT_SEED

if TYPE_CHECKING:
    import pyarrow as pa

SYNTHETIC = "synthetic"
SYNTHETIC_ROWS = 6_000
_SAVED_DATASET = ("dataset_dict.json", "state.json")
"""What distinguishes a folder of `datasets.save_to_disk` from a folder of data files."""


@dataclass(frozen=True)
class Origin:
    """What a source consists of; nothing is read yet."""

    parts: Sequence[tuple[str, Callable[[ColumnSelector], pa.Table]]]
    """For each table its name in messages, and the function that reads the chosen columns."""
    files: Sequence[str] = ()
    """The files chosen in a folder, by their path in it."""
    folder: Path | None = None
    """The folder of the data files."""


def find_origin(source: str, split: str) -> Origin:
    """Find out what `source` names.

    Args:
        source: See `load_source`. `~`, relative paths and links are resolved here, once.
        split: Which split of a folder, a saved dataset or a Hub dataset.

    Raises:
        ValueError: Nothing of that name, or not the split.
    """
    if not source.strip():
        raise ValueError(
            "The name of the source is empty: expected a file, a folder, "
            f"`{SYNTHETIC}:ROWS` or the id of a Hub dataset. Set one."
        )
    if source.partition(":")[0] == SYNTHETIC:
        return _one_table(source, _synthetic(source, split))
    path = Path(source).expanduser().resolve()
    if path.is_dir():
        if any((path / name).exists() for name in _SAVED_DATASET):
            return _one_table(source, _saved(path, split))
        files = split_files(path, split)
        names = [file.relative_to(path).as_posix() for file in files]
        parts = [(str(file), partial(read_file, file)) for file in files]
        return Origin(parts, names, path)
    if path.exists():
        return Origin([(source, partial(read_file, path))], folder=path.parent)
    looks_like_a_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    if looks_like_a_path or path.suffix.lower() in READERS:
        raise ValueError(f"{source}: no such file or folder (looked for {path}). Correct the path.")
    return _one_table(source, _from_hub(source, split))


def _one_table(source: str, table: pa.Table) -> Origin:
    def read(select: ColumnSelector) -> pa.Table:
        return table.select(select(table.column_names))

    return Origin([(source, read)])


def _synthetic(source: str, split: str) -> pa.Table:
    from mv_lightning.data.synthetic import synthetic_table

    _, *numbers = source.split(":")
    if len(numbers) > 2 or not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise ValueError(
            f"{source}: expected a number of rows after the colon, and at most a level of "
            f"difficulty after another, got {':'.join(numbers)!r}. Write for example "
            f"`{SYNTHETIC}:{SYNTHETIC_ROWS}` or `{SYNTHETIC}:{SYNTHETIC_ROWS}:1`."
        )
    rows = int(numbers[0]) if numbers else SYNTHETIC_ROWS
    level = int(numbers[1]) if len(numbers) == 2 else None
    return synthetic_table(split, rows, DEFAULT_SEED, level)


def _saved(folder: Path, split: str) -> pa.Table:
    import datasets
    import pyarrow as pa

    try:
        saved = datasets.load_from_disk(str(folder))
    except (pa.ArrowException, OSError, ValueError, LookupError) as reason:
        raise ValueError(
            f"{folder}: the saved dataset cannot be read: {reason}. Save or copy it again."
        ) from reason
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise ValueError(
                f"{folder}: no split {split!r} in the saved dataset: expected one of "
                f"{sorted(saved)}. Name one of them."
            )
        saved = saved[split]
    return saved.with_format("arrow")[:]


def _from_hub(source: str, split: str) -> pa.Table:
    import datasets

    try:
        rows = datasets.load_dataset(source, split=split)
    except Exception as reason:  # gated, offline, unknown and malformed ids share no class below it
        raise ValueError(
            f"{source}: no file or folder of that name, and the Hub gave no dataset {source!r} "
            f"with a split {split!r}: {reason}. Check the id and the split; without internet run "
            f"`hf download {source} --repo-type dataset --local-dir FOLDER` on a machine that has "
            "it, and name that folder here."
        ) from reason
    return rows.with_format("arrow")[:]
