"""JSON files that state the version of their format, so that a release never misreads another's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mv_lightning.atomic import read_json, write_json

FORMAT_VERSION = 1
"""Of all files of a run. It is raised when a release cannot read what the previous one wrote."""
VERSION_KEY = "format_version"


def write_versioned_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as JSON, whole or not at all, with the format version as its first entry.

    Args:
        path: The file; missing folders above it are made.
        values: What JSON can hold, by name.
    """
    write_json(path, {VERSION_KEY: FORMAT_VERSION, **values})


def read_versioned_json(path: Path, description: str) -> dict[str, Any]:
    """Read what `write_versioned_json` wrote.

    Args:
        path: The file.
        description: What the file is, for the messages, such as "the summary of a phase".

    Returns:
        The values, without the format version.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, is not a JSON object, or has another format version.
    """
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} ({description}) is damaged: {error}. Restore it from a copy, or run the phase "
            "again"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} ({description}) is damaged: expected a JSON object, got "
            f"{type(values).__name__}. Restore it from a copy, or run the phase again"
        )
    check_format_version(values, path, description)
    return {name: value for name, value in values.items() if name != VERSION_KEY}


def check_format_version(values: Mapping[str, Any], path: Path, description: str) -> None:
    """Refuse values that another release wrote in another format.

    Args:
        values: What was read. An entry `format_version` is expected.
        path: Where it was read from.
        description: As for `read_versioned_json`.

    Raises:
        ValueError: The format version is missing, older or newer.
    """
    version = values.get(VERSION_KEY)
    if version == FORMAT_VERSION:
        return
    raise ValueError(
        f"{path} ({description}): expected format version {FORMAT_VERSION}, got "
        f"{'none' if version is None else version}. Read it with the release of mv_lightning that "
        "wrote it, or run the phase again with this one"
    )
